"""Requests for a simulated fleet: a recorded trace's arrivals and lengths, popularity dealt out to the apps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quiltwork.core.errors import BadInputError
from quiltwork.core.traces import Trace, choose, mean_rate
from quiltwork.serving.simulate.world import Arrival

LONGEST_S = 366 * 86400.0
"""Of virtual time between the first request and the last: a cluster looks at itself every few seconds of it."""


def arrivals_of(trace: Trace, shares: Mapping[str, float], rate: float, *, seed: int) -> list[Arrival]:
    """A trace's requests at ``rate`` per second on average, each for an app drawn by its share.

    Raises BadInputError where the trace has no rate, or would take more than a year at this one.
    """
    slower = mean_rate(trace) / rate
    if trace[-1].arrival * slower > LONGEST_S:
        raise BadInputError(f"at {rate:g} requests per second {len(trace)} take more than a year", where="rate")
    apps = choose(shares, len(trace), seed=seed)
    return [
        Arrival(i, app, r.arrival * slower, max(r.prompt_tokens, 1), max(r.output_tokens, 1))
        for i, (app, r) in enumerate(zip(apps, trace, strict=True))
    ]


def mean_lengths(arrivals: Sequence[Arrival]) -> tuple[float, float]:
    """Mean prompt and output tokens."""
    count = len(arrivals)
    return sum(a.prompt_tokens for a in arrivals) / count, sum(a.output_tokens for a in arrivals) / count
