"""What inference needed so far, and how many servers more or less are lent for that."""

from __future__ import annotations

import math

from quiltwork.cluster.forecast import Forecast
from quiltwork.cluster.log import Action
from quiltwork.cluster.policy.loaning import loan_change
from quiltwork.cluster.policy.rules import Rules
from quiltwork.cluster.state import Cluster


class Needs:
    """Of one cluster. It begins with what its log tells.

    every_s : loans are decided so often. return_s : from asking a server back until inference has it.
    """

    def __init__(self, cluster: Cluster, rules: Rules, forecast: Forecast, *, every_s: float, return_s: float) -> None:
        self._cluster, self._rules, self._forecast = cluster, rules, forecast
        self._lead_s = every_s + return_s
        self._lease = max(1, math.ceil(rules.min_lease_s / every_s))
        told = [row for row in cluster.log if row.action is Action.NEED] if cluster.inference else []
        self._times = [row.time for row in told]
        self._shares = [row.cost / len(cluster.inference) for row in told]
        self._forecasts = self._shares.copy()

    def change(self, now: float, share: float) -> int:
        """Inference needs a share of its servers now: servers to lend (positive) or to ask back (negative)."""
        self._times.append(now)
        self._shares.append(share)
        self._forecasts.append(min(1.0, self._forecast(self._times, self._shares, self._lead_s)))
        return loan_change(
            len(self._cluster.inference),
            len(self._cluster.lent),
            self._forecasts[-self._lease :],
            headroom=self._rules.headroom,
            hysteresis=self._rules.hysteresis,
        )
