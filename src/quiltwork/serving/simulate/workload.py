"""Requests for a simulated fleet: a recorded trace's arrivals and lengths, popularity dealt out to the apps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quiltwork.core.traces import Trace, choose, mean_rate
from quiltwork.serving.simulate.world import Arrival


def arrivals_of(trace: Trace, shares: Mapping[str, float], rate: float, *, seed: int) -> list[Arrival]:
    """A trace's requests at ``rate`` per second on average, each for an app drawn by its share.

    Raises BadInputError where the trace has no rate.
    """
    slower = mean_rate(trace) / rate
    apps = choose(shares, len(trace), seed=seed)
    return [
        Arrival(i, app, r.arrival * slower, max(r.prompt_tokens, 1), max(r.output_tokens, 1))
        for i, (app, r) in enumerate(zip(apps, trace, strict=True))
    ]


def mean_lengths(arrivals: Sequence[Arrival]) -> tuple[float, float]:
    """Mean prompt and output tokens."""
    count = len(arrivals)
    return sum(a.prompt_tokens for a in arrivals) / count, sum(a.output_tokens for a in arrivals) / count
