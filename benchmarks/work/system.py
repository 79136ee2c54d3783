"""One system under load: what it served in each phase, and its row in the table beside the others."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from quiltwork.core.bench import tree_cpu_seconds, tree_pss_bytes
from work.replay import Limits, Replayed, Request
from work.side import Side

SIDE_BY_SIDE = "side-by-side"
"""Name of the table whose rows put all systems of a run beside each other."""

WATCHING = 0.02
"""Share of a core that watching memory may take. A look at many processes is dear."""


@dataclass
class System:
    """A side, its peak memory above the imports in bytes, and all it served that is to be reported."""

    side: Side
    name: str = ""
    settings: str = ""
    peak: int = 0
    queues: list[Replayed] = field(default_factory=list)
    """Phases with a full queue."""
    arrivals: list[Replayed] = field(default_factory=list)
    """Phases of open arrivals, streamed, all at one load."""
    cpu: list[float] = field(default_factory=list)
    """Processor seconds per 1,000 tokens of answer with a full queue."""

    def replay(self, timed: Sequence[Request]) -> Replayed:
        """Serve timed requests, watching memory as often as may be without being felt."""
        began = time.thread_time()
        tree_pss_bytes(self.side.pid)
        look = time.thread_time() - began
        with self.side.peak_pss(every=max(look / WATCHING, 0.1)) as peak:
            done: Replayed = self.side.call("replay", timed)
        self.peak = max(self.peak, peak.bytes - self.side.floor_pss)
        return done

    def full_queue(self, timed: Sequence[Request]) -> Replayed:
        """Serve requests that are all there at once, and keep what it came to."""
        before = tree_cpu_seconds(self.side.pid)
        done = self.replay(timed)
        self.cpu.append(1e3 * (tree_cpu_seconds(self.side.pid) - before) / _tokens(done))
        self.queues.append(done)
        return done

    def open_arrivals(self, timed: Sequence[Request]) -> Replayed:
        """Serve requests as they come, and keep what it came to."""
        done = self.replay(timed)
        self.arrivals.append(done)
        return done

    def row(self, against: str, limits: Limits | None = None, **more: object) -> dict[str, object]:
        """A row of the side-by-side table: medians over the phases, and each phase's own figure where claimed."""
        row: dict[str, object] = {"table": SIDE_BY_SIDE, "against": against, "system": self.name}
        if self.queues:
            row |= {
                "requests/s": [round(done.throughput, 2) for done in self.queues],
                "tokens/s": round(median(_tokens(done) / done.seconds for done in self.queues)),
                "CPU-s per 1,000 tokens": round(median(self.cpu), 2),
            }
        if self.arrivals:
            row |= {
                "p95 s": [round(done.latency(0.95), 3) for done in self.arrivals],
                "p50, p99 s": [_over([done.latency(q) for done in self.arrivals]) for q in (0.5, 0.99)],
                "first token p50, p95, p99 s": [
                    _over([done.first(q) for done in self.arrivals]) for q in (0.5, 0.95, 0.99)
                ],
                "per token p50, p95 s": [_over([done.between(q) for done in self.arrivals]) for q in (0.5, 0.95)],
            }
            if limits is not None:
                row["within limits/s"] = [round(done.goodput(limits), 2) for done in self.arrivals]
        return row | {"peak MB": round(self.peak / 1e6), "settings": self.settings} | more


def conditions(systems: Mapping[str, System]) -> dict[str, object]:
    """What each system runs with, for the record."""
    return {name: system.side.call("conditions") for name, system in systems.items()}


def warm_up(systems: Mapping[str, System], some: Sequence[Request]) -> None:
    """Serve some requests on each, unmeasured."""
    for system in systems.values():
        system.side.call("replay", some)


def in_turn(systems: Sequence[str], turn: int) -> list[str]:
    """The systems in the order in which they run: A B, then B A."""
    return list(systems) if turn % 2 == 0 else list(reversed(systems))


def answers(done: Replayed) -> dict[str, list[int]]:
    """Request -> tokens."""
    return {request: reply.tokens for request, reply in done.replies.items()}


def asked(timed: Sequence[Request]) -> dict[str, tuple[str, Sequence[int]]]:
    """Request -> application and prompt."""
    return {request.id: (request.app, request.prompt) for request in timed}


def _tokens(done: Replayed) -> int:
    return sum(len(reply.tokens) for reply in done.replies.values())


def _over(phases: Sequence[float]) -> float:
    return round(median(phases), 4)
