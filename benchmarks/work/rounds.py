"""The same work for every arm of an interleaved run: new prompts in every round, all answers kept for comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from work.answers import Comparison
from work.prompts import prompts
from work.reference import Reference

Ask = Callable[[list[tuple[str, list[int]]], int], Sequence[Sequence[int]]]
"""Answers, of that many tokens, to (model, prompt) pairs."""


@dataclass
class Rounds:
    """Hands the n-th call of every arm the n-th set of prompts.

    Parameters
    ----------
    models : which model answers each prompt of a round.
    length : tokens per prompt.
    """

    models: Sequence[str]
    length: int
    vocab: int
    seed: int
    asked: dict[str, tuple[str, list[int]]] = field(default_factory=dict)
    answers: dict[str, dict[str, Sequence[int]]] = field(default_factory=dict)
    _turns: dict[tuple[str, str], int] = field(default_factory=dict)

    def arm(self, side: str, ask: Ask, new_tokens: int, kind: str = "") -> Callable[[], None]:
        """One arm: ``side`` answers a round of ``kind``. Rounds of different kinds have different prompts."""

        def run() -> None:
            turn = self._turns.get((side, kind), 0)
            self._turns[side, kind] = turn + 1
            texts = prompts(len(self.models), self.length, self.vocab, seed=self.seed, repeat=f"{kind}/{turn}")
            requests = list(zip(self.models, texts, strict=True))
            for i, (request, answer) in enumerate(zip(requests, ask(requests, new_tokens), strict=True)):
                name = f"{kind}/{turn}/{i}"
                self.asked[name] = request
                self.answers.setdefault(side, {})[name] = answer

        return run

    def compare(self, reference: Reference, ours: str, baseline: str) -> Comparison:
        """Compare the answers of two sides over all rounds."""
        return reference.compare(self.asked, self.answers[ours], self.answers[baseline])


def per_step(long: Sequence[float], short: Sequence[float], steps: int) -> list[float]:
    """Cost of one decode step, from rounds whose answers differ by ``steps`` tokens: prefill and set-up cancel."""
    return [(a - b) / steps for a, b in zip(long, short, strict=True)]
