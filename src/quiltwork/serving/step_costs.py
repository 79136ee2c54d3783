"""What a step costs by its rows, learnt while serving."""

from __future__ import annotations

from bisect import bisect_left

RISE, FALL = 0.1, 0.3
"""Weights of a new measurement against what is known of its number of rows, where it is higher and where it is lower:
whatever disturbs a step makes it longer."""
EXACT_ROWS = 32
"""Up to here each number of rows is known apart; beyond, the eight up to a multiple of eight together."""
FORGOTTEN = 1024
"""Runs after which a number of rows that was not met again is unknown: what was too dear once is then tried again."""
REFRESHED = 256
"""Runs after which a number of rows should be measured again."""
OUTLIER = 3.0
"""A measurement counts at most this many times what was expected: a pause of the machine is no cost of the step."""


class StepCosts:
    """Smoothed seconds by rows. More rows are never taken to be cheaper than fewer."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._measured_at: dict[int, int] = {}
        self._met: set[int] = set()
        self._runs = 0
        self._rows: list[int] = []
        self._rising: list[float] = []

    def measured(self, rows: int, seconds: float) -> None:
        """Take in a run of ``rows`` rows."""
        key = rows if rows <= EXACT_ROWS else -(-rows // 8) * 8
        self._runs += 1
        if key not in self._met:
            self._met.add(key)  # the first run with some number of rows makes kernels for it
            return
        known = self._seconds.get(key, seconds)
        weight = RISE if seconds > known else FALL
        self._seconds[key] = known + weight * (min(seconds, OUTLIER * known) - known)
        self._measured_at[key] = self._runs
        for old in [each for each, at in self._measured_at.items() if self._runs - at > FORGOTTEN]:
            del self._seconds[old], self._measured_at[old]
        self._rows = sorted(self._seconds)
        # The cheaper of a number of rows and every larger one: noise must not make more rows look cheaper.
        self._rising = [self._seconds[row] for row in self._rows]
        for at in range(len(self._rising) - 2, -1, -1):
            self._rising[at] = min(self._rising[at], self._rising[at + 1])

    @property
    def known(self) -> bool:
        """Whether anything was measured."""
        return bool(self._rows)

    def stale(self, rows: int) -> bool:
        """Whether neither this number of rows nor one a little smaller was among the last REFRESHED runs."""
        low = rows - rows // 4
        return not any(low <= key <= rows and self._runs - at < REFRESHED for key, at in self._measured_at.items())

    def seconds(self, rows: int) -> float:
        """Seconds of a run of ``rows`` rows: between known numbers in proportion, beyond them as between the outermost.

        With one number known all others are taken to cost the same, so that they are tried. 0 where nothing is known.
        """
        known, cost = self._rows, self._rising
        if not known:
            return 0.0
        at = bisect_left(known, rows)
        if at < len(known) and known[at] == rows:
            return cost[at]
        if at == 0:
            return cost[0]
        if at == len(known):
            if at == 1:
                return cost[0]
            slope = (cost[-1] - cost[0]) / (known[-1] - known[0])
            return cost[-1] + slope * (rows - known[-1])
        share = (rows - known[at - 1]) / (known[at] - known[at - 1])
        return cost[at - 1] + share * (cost[at] - cost[at - 1])
