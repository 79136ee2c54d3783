"""Which of many scorers agree best with a gold set, and which differences are too small to rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError
from quiltwork.text.evaluate.correlation import (
    RESAMPLES,
    Estimate,
    draws,
    pearson,
    pearsons,
    quantiles,
    spearman,
)

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """A scorer on a gold set.

    r : Pearson's, with its 95 % interval. rho : Spearman's. unscored : pairs that it says nothing of; they count as
    alike as nothing, 0. rank : 1 and one more for every scorer that is better with a paired interval that does not
    contain 0; so those that the pairs cannot tell apart share one. deltas : by baseline, how much better this one is.
    """

    name: str
    r: Estimate
    rho: float
    unscored: int
    rank: int
    deltas: Mapping[str, Estimate]


def leaderboard(
    scores: Mapping[str, Numbers],
    gold: Numbers,
    *,
    seed: int,
    baselines: Sequence[str] = (),
    resamples: int = RESAMPLES,
) -> tuple[Line, ...]:
    """Lines by falling r. All intervals and differences are of the same drawn pairs.

    scores : by name, of n pairs (n,). gold : (n,). baselines : names among the scores. Raises BadInputError for a
    baseline that is not there, and for scores that do not vary.
    """
    absent = next((name for name in baselines if name not in scores), None)
    if absent is not None:
        raise BadInputError(f"{absent[:80]!r} is not among {', '.join(scores)}", where="baseline")
    filled = {name: np.nan_to_num(values, nan=0.0) for name, values in scores.items()}
    whole = {name: pearson(values, gold) for name, values in filled.items()}
    flat = next((name for name, r in whole.items() if np.isnan(r)), None)
    if flat is not None:
        raise BadInputError("says the same of all pairs, so that nothing can be correlated", where=flat)
    drawn = _drawn(filled, gold, resamples, seed)

    def delta(one: str, other: str) -> Estimate:
        return Estimate(whole[one] - whole[other], quantiles(drawn[one] - drawn[other], 0.95))

    order = sorted(scores, key=lambda name: -whole[name])
    return tuple(
        Line(
            name,
            Estimate(whole[name], quantiles(drawn[name], 0.95)),
            spearman(filled[name], gold),
            int(np.isnan(scores[name]).sum()),
            1 + sum(delta(better, name).interval.low > 0 for better in order[:at]),
            {other: delta(name, other) for other in baselines if other != name},
        )
        for at, name in enumerate(order)
    )


def _drawn(scores: Mapping[str, Numbers], gold: Numbers, resamples: int, seed: int) -> dict[str, Numbers]:
    """Each scorer's correlations on drawn pairs (resamples,), the same draws for all."""
    parts: dict[str, list[Numbers]] = {name: [] for name in scores}
    for at in draws(len(gold), resamples, seed):
        said = gold[at]
        for name, values in scores.items():
            parts[name].append(pearsons(values[at], said))
    return {name: np.concatenate(found) for name, found in parts.items()}
