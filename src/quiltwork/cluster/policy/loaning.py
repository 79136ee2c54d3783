"""How many of inference's servers are lent: what is idle beyond its need and a headroom, and stays so."""

from __future__ import annotations

import math
from collections.abc import Sequence


def loan_change(
    servers: int,
    lent: int,
    needs: Sequence[float],
    *,
    headroom: float = 0.02,
    hysteresis: float = 0.02,
) -> int:
    """Servers to lend (positive) or to ask back (negative) now.

    servers : inference's own, lent ones included. needs : share of them that is needed, as forecast at each decision
    within the last minimum lease, the present one last. Asked back is at once what the present need and the headroom
    require; lent is what would have been idle all that time and leaves ``hysteresis`` beyond the headroom, and no less
    at once than that: a need that only trembles by less moves no server.
    """
    keep = servers - math.ceil(servers * min(1.0, needs[-1] + headroom) - 1e-9)
    if lent > keep:
        return keep - lent
    spare = servers - math.ceil(servers * min(1.0, max(needs) + headroom + hysteresis) - 1e-9)
    return spare - lent if spare - lent >= max(1.0, servers * hysteresis) else 0
