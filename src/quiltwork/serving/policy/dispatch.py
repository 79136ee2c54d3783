"""Which instance runs a request's next segment: the cheapest, all told, but not for a trifle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quiltwork.serving.policy.kv import KVChoice, KVState, fetch, move_seconds, recompute_seconds

POLICIES = ("best", "owner", "move", "recompute")


@dataclass(frozen=True)
class Candidate:
    """An agent that could run the next segment, and what that would cost in seconds."""

    agent: str
    queue_s: float = 0.0
    """Until what waits there is done."""
    load_s: float = 0.0
    """To load the segment; 0 where it is resident."""
    net_s: float = 0.0
    """To send the hidden state there."""
    kv_s: float = 0.0
    """To get at the sequence's keys and values there."""
    exec_s: float = 0.0
    """To run the batch that it would join."""
    kv: KVChoice = KVChoice.NONE
    steps: int = 1
    """How often the sequence will come by, this time included, as far as can be told."""
    usual_s: float | None = None
    """What waits there on the whole, where that is known: a queue that is short or long just now need not stay so."""

    @property
    def cost(self) -> float:
        """Seconds that all those times will take: queue, way and batch each time, loading and state once.

        The queue is as it is now this time, and as it usually is from then on.
        """
        later = self.queue_s if self.usual_s is None else self.usual_s
        queues = self.queue_s + (self.steps - 1) * later
        return queues + self.steps * (self.net_s + self.exec_s) + self.load_s + self.kv_s


def choose(
    candidates: Sequence[Candidate], *, hysteresis: float = 0.1, two: tuple[int, int] | None = None
) -> Candidate | None:
    """The candidate to send to; None where none is possible.

    Who holds the sequence's keys and values keeps it unless another is cheaper by more than ``hysteresis`` of the
    owner's cost. ``two`` (drawn by the caller where its figures are stale) looks at two candidates only, and the owner,
    so that not all dispatchers run to the same idle one. Ties go to the name that sorts first.
    """
    possible = [c for c in candidates if c.cost < float("inf")]
    if not possible:
        return None
    owner = next((c for c in possible if c.kv is KVChoice.OWNER), None)
    looked_at = possible
    if two is not None and len(possible) > 2:
        looked_at = [possible[i % len(possible)] for i in two]
    best = min(looked_at, key=lambda c: (c.cost, c.agent))
    if owner is not None and best.cost >= owner.cost * (1 - hysteresis):
        return owner
    return best


@dataclass(frozen=True)
class Option:
    """An agent that has the next segment, before it is known how it would get at the keys and values."""

    agent: str
    queue_s: float
    net_s: float
    exec_s: float
    state: KVState
    load_s: float = 0.0
    steps: int = 1
    usual_s: float | None = None
    """See ``Candidate``."""


def weigh(options: Sequence[Option], owner: str | None, policy: str = "best") -> list[Candidate]:
    """Every option with the cost of its keys and values.

    ``best`` weighs all three ways. The others take one way alone, for comparison: ``owner`` never leaves whoever holds
    them; ``move`` and ``recompute`` go where the queue is shortest and then fetch or compute them, whatever that costs.
    A way that is impossible gives place to the cheapest possible one.
    """
    weighed: list[Candidate] = []
    for o in options:
        kv, seconds = fetch(o.state)
        if o.agent == owner and o.state.tokens:
            kv, seconds = KVChoice.OWNER, 0.0
        elif kv is not KVChoice.NONE and seconds < float("inf"):
            if policy == "move" and move_seconds(o.state) < float("inf"):
                kv, seconds = KVChoice.MOVE, 0.0
            elif policy == "recompute" and recompute_seconds(o.state) < float("inf"):
                kv, seconds = KVChoice.RECOMPUTE, 0.0
        weighed.append(Candidate(o.agent, o.queue_s, o.load_s, o.net_s, seconds, o.exec_s, kv, o.steps, o.usual_s))
    if policy == "owner" and any(c.kv is KVChoice.OWNER for c in weighed):
        return [c for c in weighed if c.kv is KVChoice.OWNER]
    return weighed
