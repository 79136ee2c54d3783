"""How many servers: a search over simulated clusters, and the curve that it stands on."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from quiltwork.core.errors import BadInputError
from quiltwork.core.progress import Say, ignore
from quiltwork.core.saturation import KEEPS_UP, followed
from quiltwork.core.servable import Json
from quiltwork.serving.simulate.arms import Arm
from quiltwork.serving.simulate.describe import Described
from quiltwork.serving.simulate.outcome import Outcome
from quiltwork.serving.simulate.scaling import provision
from quiltwork.serving.simulate.simulation import simulate
from quiltwork.serving.simulate.workload import mean_lengths
from quiltwork.serving.simulate.world import Arrival, Settings

_OBJECTIVE = re.compile(r"\s*(?:(ttft|tpot|latency)_?)?p(\d{1,3}(?:\.\d+)?)\s*<=\s*(\d+(?:\.\d+)?)\s*(ms|s)?\s*")


@dataclass(frozen=True)
class Objective:
    """What has to hold: a quantile of a time stays within a limit."""

    figure: str
    """latency, ttft or tpot."""
    q: float
    limit_s: float

    def measured(self, outcome: Outcome) -> float:
        """The figure of a run; infinite where a request was refused or nothing finished."""
        if outcome.refused or not outcome.finished:
            return float("inf")
        figures = {"latency": outcome.latency, "ttft": outcome.ttft, "tpot": outcome.tpot}
        return figures[self.figure](self.q)


def objective_of(text: str) -> Objective:
    """``p95<=2s``, ``ttft_p99 <= 500ms``. Raises BadInputError."""
    match = _OBJECTIVE.fullmatch(text)
    if match is None:
        raise BadInputError(f"{text!r} is not like 'p95<=2s' or 'ttft_p95<=500ms'", where="--slo")
    percentile, limit_s = float(match[2]), float(match[3]) * (0.001 if match[4] == "ms" else 1.0)
    if not 0 < percentile <= 100:
        raise BadInputError(f"p{match[2]} is no percentile above 0 and up to 100", where="--slo")
    if not 0 < limit_s < math.inf:
        raise BadInputError(f"{text!r} has a limit that is not a positive number of seconds", where="--slo")
    return Objective(match[1] or "latency", percentile / 100, limit_s)


def run_world(
    world: Described,
    arm: Arm,
    arrivals: Sequence[Arrival],
    shares: Mapping[str, float],
    rate: float,
    *,
    servers: int | None = None,
    settings: Settings | None = None,
) -> Outcome:
    """Provision a described cluster for an expected rate, then serve the requests on it."""
    chosen = settings or world.settings
    cluster = world.cluster(servers)
    apps = world.served(arm)
    prompt, output = mean_lengths(arrivals)
    rates = {app.name: rate * shares.get(app.name, 0.0) for app in apps}
    placed = provision(cluster, apps, rates, chosen, prompt_tokens=prompt, output_tokens=output)
    return simulate(cluster, apps, arrivals, chosen, placed)


@dataclass(frozen=True)
class Point:
    """One cluster that was tried."""

    servers: int
    devices: int
    measured: tuple[float, ...]
    """Per objective."""
    holds: bool
    busy_share: float


@dataclass(frozen=True)
class Answer:
    """The fewest servers tried that hold, if any did, and all that were tried in order."""

    servers: int | None
    curve: tuple[Point, ...]


def plan(
    world: Described,
    arm: Arm,
    arrivals: Sequence[Arrival],
    shares: Mapping[str, float],
    rate: float,
    objectives: Sequence[Objective],
    *,
    most: int = 64,
    progress: Say = ignore,
) -> Answer:
    """The fewest servers on which all objectives hold.

    Doubles the servers until they hold, then halves the gap. More servers are not always faster, so that the answer is
    the fewest *tried* that hold; the curve shows the neighbours.
    """
    tried: dict[int, Point] = {}

    def holds(servers: int) -> bool:
        progress(f"{servers} servers")
        outcome = run_world(world, arm, arrivals, shares, rate, servers=servers)
        measured = tuple(o.measured(outcome) for o in objectives)
        met = all(m <= o.limit_s for m, o in zip(measured, objectives, strict=True))
        tried[servers] = Point(servers, outcome.devices, measured, met, outcome.busy_share)
        return met

    low, high = 0, 1
    while not holds(high):
        low = high
        if high == most:
            return Answer(None, tuple(tried[n] for n in sorted(tried)))
        high = min(high * 2, most)
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return Answer(high, tuple(tried[n] for n in sorted(tried)))


def keeps_up(outcome: Outcome, arrivals: Sequence[Arrival]) -> bool:
    """Whether all requests are served, and end as fast as they come."""
    share = followed([a.at for a in arrivals], [f.end for f in outcome.finished])
    return not outcome.refused and share >= KEEPS_UP


def saturation(
    rates: Sequence[float], run: Callable[[float], tuple[Outcome, Sequence[Arrival]]]
) -> tuple[float, list[dict[str, Json]]]:
    """The highest of some rates that a system still keeps up with, and what it did at each up to one more.

    0 where it does not keep up with any.
    """
    kept = 0.0
    rows: list[dict[str, Json]] = []
    for rate in sorted(rates):
        outcome, arrivals = run(rate)
        follows = keeps_up(outcome, arrivals)
        rows.append(
            {
                "rate": rate,
                "keeps_up": follows,
                "served": outcome.throughput,
                "p50": outcome.latency(0.5),
                "p95": outcome.latency(0.95),
                "busy_share": outcome.busy_share,
            }
        )
        if not follows:
            break
        kept = rate
    return kept, rows
