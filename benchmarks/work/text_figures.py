"""Rows of scorers on a gold set, with the intervals that are printed beside every figure of the room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quiltwork.core.servable import Json
    from quiltwork.text.evaluate.correlation import Estimate
    from quiltwork.text.evaluate.gold import GoldSet

AGAINST = ("PV-DM", "Hybrid model")
"""Columns of Blagec et al. that all is compared with: their best single model, and their supervised one."""
DEVELOPMENT = "CTR"


def rows_of(
    gold: GoldSet, scored: Mapping[str, Any], authors: Mapping[str, Any], seed: int, resamples: int
) -> list[Mapping[str, Json]]:
    """A row for each scorer by falling r, and for the authors' columns where the set has them."""
    from quiltwork.text.evaluate.leaderboard import leaderboard

    theirs = {f"Blagec et al.: {name}": scores for name, scores in authors.items()}
    baselines = [f"Blagec et al.: {name}" for name in AGAINST if name in authors]
    lines = leaderboard({**scored, **theirs}, gold.gold, seed=seed, baselines=baselines, resamples=resamples)
    table = f"{gold.name} (development)" if gold.name == DEVELOPMENT else gold.name
    return [
        {
            "table": table,
            "scorer": line.name,
            "rank": line.rank,
            "r": round(line.r.value, 4),
            "95 % interval": span(line.r),
            "rho": round(line.rho, 4),
            **{f"vs {name}": delta(line.deltas.get(full)) for name, full in zip(AGAINST, baselines, strict=False)},
        }
        for line in lines
    ]


def span(estimate: Estimate) -> str:
    """An interval as text."""
    return f"[{estimate.interval.low:.3f}, {estimate.interval.high:.3f}]"


def delta(estimate: Estimate | None) -> str | None:
    """A difference with its interval as text."""
    return None if estimate is None else f"{estimate.value:+.3f} {span(estimate)}"
