"""A sequence on its way through the agents, as the front sees it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quiltwork.layers.protocol import PAGE_TOKENS
from quiltwork.serving.agents.holdings import Laying, Placed
from quiltwork.serving.agents.message import Output
from quiltwork.serving.agents.timing import Timing
from quiltwork.serving.policy.admission import InUse
from quiltwork.serving.policy.queueing import Instance
from quiltwork.serving.sequence import Sequence


@dataclass(frozen=True)
class Departure:
    """When what is under way was sent, and beside how much else: what its way took is then a measurement."""

    at: float
    plain_rows: int
    """Decoding rows on their way then, this sequence's own included, but none that were drafted for it."""
    rows: int
    """With those."""


@dataclass(eq=False)
class Flight:
    """A sequence on its way. Its layout stays what it was when it started."""

    seq: Sequence
    placed: Placed
    laying: Laying
    first: int
    """Position of the first token that is computed; those before it are a copied prefix."""
    epoch: int = 1
    visited: list[str | None] = field(default_factory=list)
    bound: str | None = None
    """The agent that it was sent to last."""
    flying: tuple[int, int] | None = None
    """First row and the position behind the last one of what is under way."""
    wants: int = 0
    """Logits wanted of what is under way."""
    drafted: tuple[int, ...] = ()
    """Tokens that are only guessed, after the sequence's own."""
    told: int = 0
    """Pages whose hashes agents have been told."""
    stalled: bool = False
    """Whether nobody can take what is to be sent just now."""
    lacked: int = 0
    """How often in a row something was missing for what is under way."""
    departed: Departure | None = None
    """Set where its way is measured."""
    drafting_s: float = 0.0
    """Seconds that it took to draft what is under way."""

    def awaits(self, output: Output) -> bool:
        """Whether this is what is under way, or the first rows of it; nothing that was sent before counts."""
        return self.flying is not None and output.epoch == self.epoch and self.flying[0] < output.end <= self.flying[1]

    def home(self, segment: int) -> str | None:
        """The agent where it lives at a segment, or will as far as can be told."""
        here = self.visited[segment]
        return self.bound if here is None and self.bound in self.laying.cut.holders[segment] else here

    @property
    def known(self) -> int:
        """Position behind the last token, those guessed included."""
        return len(self.seq.tokens) + len(self.drafted)

    def rows(self, start: int, end: int) -> Tensor:
        """(end - start,) int64 token ids."""
        tokens = self.seq.tokens[start:end]
        if end > len(self.seq.tokens):
            tokens += self.drafted[max(start - len(self.seq.tokens), 0) : end - len(self.seq.tokens)]
        return torch.tensor(tokens, dtype=torch.int64)


def living(flights: Iterable[Flight], timing: Timing) -> tuple[dict[str, dict[Instance, InUse]], dict[str, int]]:
    """What goes on at each segment of each agent, and how many sequences live there."""
    use: dict[str, dict[Instance, InUse]] = {}
    others: Counter[str] = Counter()
    for flight in flights:
        cut, seq = flight.laying.cut, flight.seq
        homes = [flight.home(segment) for segment in range(len(cut.keys))]
        others.update({home for home in homes if home is not None})
        for segment, home in enumerate(homes):
            if home is None:
                continue
            here, key = use.setdefault(home, {}), cut.keys[segment]
            before = here.get(key, InUse(timing.of(cut, segment), 0, 0.0))
            here[key] = InUse(
                before.profile,
                before.sequences + 1,
                before.context + len(seq.tokens),
                before.prompt_rows + max(seq.pending - 1, 0),
            )
    return use, others


def board(seq: Sequence, placed: Placed) -> Flight:
    """A sequence at its start, with nothing computed but a copied prefix."""
    first = placed.virtual_tokens if placed.copies_prefix else 0
    flight = Flight(seq, placed, placed.now, first, visited=[None] * len(placed.route))
    seq.departures += 1
    flight.epoch = seq.departures
    flight.told = first // PAGE_TOKENS
    seq.computed = first
    return flight
