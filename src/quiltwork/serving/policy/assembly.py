"""Which chain answers a request: the exact one, or an adapted one that may stand in for it and is clearly cheaper.

What an adapted chain may cost in quality is settled before: whoever is not permitted is no candidate. The choice is
made once, before there are any keys and values; from then on they belong to the chain that was chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

HYSTERESIS = 0.1
"""Share of the exact chain's cost by which another one has to be cheaper."""


@dataclass(frozen=True)
class Outlook:
    """What answering a request by one chain would take from now on, in seconds.

    What all chains have in common (a waiting room in front of them all) is left out: no choice changes it.
    """

    load_s: float = 0.0
    """To bring the chain into memory; 0 where it is there."""
    prompt_s: float = 0.0
    """To compute what of the prompt is not computed yet."""
    queue_s: float = 0.0
    """In queues, on the way of one token through the chain."""
    step_s: float = 0.0
    """What one more row adds to the batches that it would join there."""
    steps: int = 1
    """How many tokens are taken to come."""
    found: int = 0
    """Tokens of the prompt whose keys and values are there already; they are in no other figure."""

    @property
    def cost_s(self) -> float:
        """Loading and the prompt once, queues and batches with every token."""
        return self.load_s + self.prompt_s + self.steps * (self.queue_s + self.step_s)


@dataclass(frozen=True)
class Candidate:
    """A chain that may answer."""

    name: str
    outlook: Outlook
    delta_loss: float = 0.0
    """Nats per token that it was judged to lose against the exact one."""


def assemble(exact: Candidate, stand_ins: Sequence[Candidate], *, hysteresis: float = HYSTERESIS) -> Candidate:
    """The exact chain, unless a stand-in is cheaper by more than ``hysteresis`` of the exact one's cost.

    Of several stand-ins the cheapest; on ties the one that was judged to lose less, then the name that sorts first. A
    cost that is not known (0 for all) or no number never speaks for a stand-in.
    """
    best = min(stand_ins, key=lambda c: (c.outlook.cost_s, c.delta_loss, c.name), default=None)
    if best is None or not best.outlook.cost_s < exact.outlook.cost_s * (1 - hysteresis):
        return exact
    return best


def added_s(batch_s: Callable[[int], float], there: int, rows: int) -> float:
    """Seconds that ``rows`` more rows add to a batch that holds ``there`` without them.

    Nearly nothing where a few more rows read the same weights; the whole batch where they would be alone.
    """
    alone = batch_s(rows)
    return alone if there <= 0 else min(max(batch_s(there + rows) - batch_s(there), 0.0), alone)
