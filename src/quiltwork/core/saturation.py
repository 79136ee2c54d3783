"""Whether a server keeps up with what is asked of it, and the rate at which it stops to: the knee."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

KEEPS_UP = 0.95
"""Share of the requests that come which have to end meanwhile."""


def followed(arrivals: Sequence[float], ends: Sequence[float]) -> float:
    """Requests that ended over those that came, counted until the last came, the first quarter left out as warm-up.

    About 1 where answers follow arrivals, whatever time each takes; less where a queue grows. 1 where all come at once.

    Parameters
    ----------
    arrivals : (n,) seconds from the start at which requests came.
    ends : (m,) seconds from the start at which they were answered; those that failed are left out.
    """
    until = max(arrivals)
    begin = until / 4
    came = sum(begin < at < until for at in arrivals)
    return sum(begin < end <= until for end in ends) / came if came else 1.0


def knee(shares: Mapping[float, float]) -> float | None:
    """The highest rate that, like all lower ones, was kept up with; None where the lowest was not.

    shares : offered rate (requests per second) -> ``followed`` at it.
    """
    kept = None
    for rate in sorted(shares):
        if shares[rate] < KEEPS_UP:
            break
        kept = rate
    return kept
