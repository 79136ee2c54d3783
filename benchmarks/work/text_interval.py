"""How the calibration's confidence was chosen: what intervals cover on CTR, fitted on one half and judged on the other.

    python -m work.text_interval FOLDER...      (in benchmarks; folders of trained word vectors; needs $QUILTWORK_DATA)

Prints, for each confidence, what the intervals of many ways to halve CTR cover of the other half, and their width.
Nothing here reads BIOSSES. What 85 pairs say of coverage varies by itself (by .03): that is in the spread.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from quiltwork.text.scorer import Scores

CONFIDENCES = (None, 0.8, 0.9, 0.95)
HALVINGS = 400


def covered(scores: Scores, gold: Scores, confidence: float | None, coverage: float) -> tuple[Scores, Scores]:
    """What the interval of each halving covers of the half it was not fitted on, and its mean width."""
    from quiltwork.text.calibrate import fit_calibration

    shares, widths = [], []
    for seed in range(HALVINGS):
        order = np.random.default_rng([seed, 1]).permutation(len(gold))
        fit, other = np.array_split(order, 2)
        fitted = fit_calibration("halves", scores[fit], gold[fit], seed=seed, coverage=coverage, confidence=confidence)
        rated = fitted(scores[other])
        shares.append(((rated.low <= gold[other]) & (gold[other] <= rated.high)).mean())
        widths.append((rated.high - rated.low).mean())
    return np.array(shares), np.array(widths)


def table(scores: Scores, gold: Scores, coverage: float) -> list[Mapping[str, object]]:
    """A row for each confidence."""
    rows: list[Mapping[str, object]] = []
    for confidence in CONFIDENCES:
        shares, widths = covered(scores, gold, confidence, coverage)
        rows.append(
            {
                "confidence": confidence,
                "mean": round(float(shares.mean()), 3),
                "tenth percentile": round(float(np.quantile(shares, 0.1)), 3),
                "fits that cover it": round(float((shares >= coverage).mean()), 3),
                "mean width": round(float(widths.mean()), 3),
            }
        )
    return rows


def main(folders: Sequence[Path], data: Path) -> None:
    """Print the table of the score that is calibrated, for each folder of vectors."""
    from quiltwork.text.evaluate.gold import read_ctr
    from work.text_fusion import fixed_scorers, frozen, vectors, with_recipes

    gold, (choices, _) = read_ctr(data / "text"), frozen()
    fixed = {name: scorer(gold.pairs) for name, scorer in fixed_scorers(choices, data).items()}
    told = choices["calibration"]
    for folder in folders:
        parts = with_recipes(choices, {**fixed, "vectors": np.nan_to_num(vectors(choices, folder)(gold.pairs))})
        for row in table(parts[told["score"]], gold.gold, told["coverage"]):
            print(folder.name, row)


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]], Path(os.environ["QUILTWORK_DATA"]))
