"""What a request would take on each of several chains in one engine, by what the engine's steps have cost so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from quiltwork.serving.policy.assembly import Outlook, added_s
from quiltwork.serving.step_costs import StepCosts
from quiltwork.zoo.types import Chain

HORIZON = 32
"""Tokens that an answer is taken to have, at most."""


class Outlooks:
    """Seconds by rows for every byte of weights that a batch goes through, learnt from whole steps.

    A step is taken to cost its blocks' bytes, each block by the rows of its batch. That is coarse (a step's fixed cost
    and its attention over long contexts are in it), but equally so for all chains that are compared.

    chunk : prompt tokens of one sequence in a step. seats : sequences in a step, at most.
    """

    def __init__(self, chunk: int, seats: int) -> None:
        self._chunk, self._seats = chunk, seats
        self._costs = StepCosts()
        self._bytes: dict[str, int] = {}

    def learn(self, riding: Iterable[tuple[Chain, int]], seconds: float) -> None:
        """A step took so long; riding : the chain and the rows of everybody in it."""
        rows = self._rows(riding)
        nbytes = {block: self._bytes[block] for block in rows}
        total = sum(nbytes.values())
        if total:
            mean = sum(nbytes[block] * count for block, count in rows.items()) / total
            self._costs.measured(max(round(mean), 1), seconds / total)

    def of(self, chain: Chain, riding: Iterable[Chain], *, prompt: int, found: int, tokens: int) -> Outlook:
        """What a request would take on a chain.

        Parameters
        ----------
        riding : the chain of every sequence that is here.
        prompt, found : tokens of its prompt, and how many of those need no computing.
        tokens : that the answer may have.
        """
        steps = min(tokens, HORIZON)
        if not self._costs.known:
            return Outlook(steps=steps, found=found)
        chains = list(riding)
        there = self._rows((each, 1) for each in chains)
        seated = min(1.0, self._seats / (len(chains) + 1))  # nobody meets more than have a place
        full, rest = divmod(prompt - found, self._chunk)
        prompt_s = step_s = 0.0
        for block, weights in self._weights(chain):
            rows = round(there[block] * seated)
            prompt_s += weights * full * added_s(self._costs.seconds, rows, self._chunk)
            prompt_s += weights * added_s(self._costs.seconds, rows, rest) if rest else 0.0
            step_s += weights * added_s(self._costs.seconds, rows, 1)
        return Outlook(prompt_s=prompt_s, step_s=step_s, steps=steps, found=found)

    def _rows(self, riding: Iterable[tuple[Chain, int]]) -> Counter[str]:
        """Rows by block."""
        by_chain: dict[int, tuple[Chain, int]] = {}
        for chain, rows in riding:
            by_chain[id(chain)] = (chain, rows + by_chain.get(id(chain), (chain, 0))[1])
        total: Counter[str] = Counter()
        for chain, rows in by_chain.values():
            for block, _ in self._weights(chain):
                total[block] += rows
        return total

    def _weights(self, chain: Chain) -> Iterable[tuple[str, int]]:
        """Blocks with bytes that every row goes through; of an embedding a row reads its own only."""
        for part in chain.links:
            block = part.block
            if block.kind != "embed":
                if block.id not in self._bytes:
                    self._bytes[block.id] = block.nbytes
                yield block.id, self._bytes[block.id]
