"""From a score to what people would say of a pair, from 0 to 4, with an interval that this mostly lies in."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.core.registry import missing_package
from quiltwork.text.hybrid import SCALE, number, numbers_of, read_document
from quiltwork.text.scorer import Scores

COVERAGE = 0.9
_SHIPPED = "calibrations"


@dataclass(frozen=True)
class Rating:
    """What people would say of n pairs: the expected rating and the interval's two ends, each (n,); NaN where the score
    is."""

    value: Scores
    low: Scores
    high: Scores


@dataclass(frozen=True)
class Calibration:
    """A map from one scorer's scores to ratings: straight between its knots, level beyond them.

    scorer : the name of the scorer it was fitted on. scores, ratings : (m,) its knots, neither ever falling. margin :
    half the width of the interval, before it is cut at the scale's ends. coverage : how often a rating of pairs like
    those it was fitted on lies in the interval. low, high : the scale. confidence : how sure it is that coverage is not
    less; None where coverage holds on average over fits.
    """

    scorer: str
    scores: tuple[float, ...]
    ratings: tuple[float, ...]
    margin: float
    coverage: float
    low: float = SCALE[0]
    high: float = SCALE[1]
    confidence: float | None = None

    def __post_init__(self) -> None:
        if len(self.scores) < 2 or len(self.scores) != len(self.ratings):
            raise BadInputError("has not two knots or more, each of a score and a rating", where=self._where)
        if (np.diff(self.scores) <= 0).any() or (np.diff(self.ratings) < 0).any():
            raise BadInputError("falls where scores rise", where=self._where)
        if not (self.margin >= 0 and 0 < self.coverage < 1 and self.low < self.high):
            raise BadInputError("has no interval", where=self._where)
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise BadInputError(f"cannot be sure to {self.confidence:g}", where=self._where, hint="between 0 and 1")

    def __call__(self, scores: Scores) -> Rating:
        value = np.interp(scores, self.scores, self.ratings)
        ends = (np.clip(value + side, self.low, self.high) for side in (-self.margin, self.margin))
        return Rating(value, *ends)

    @property
    def _where(self) -> str:
        return f"calibration of {self.scorer}"


def fit_calibration(
    scorer: str,
    scores: Scores,
    gold: Scores,
    *,
    seed: int,
    kind: Literal["linear", "isotonic"] = "linear",
    coverage: float = COVERAGE,
    confidence: float | None = None,
    scale: tuple[float, float] = SCALE,
) -> Calibration:
    """Fitted on pairs that it will never be judged on: half of them, drawn by ``seed``, for the map, and the other half
    for the margin (split conformal prediction, Lei et al. 2018): the k-th smallest distance of a rating from the map,
    with k = ceil((n + 1) coverage). New pairs that are like these lie within it with that chance or a little more;
    nothing is promised of pairs of another kind.

    confidence : that chance is one over all fits, and this fit's own is now above and now below. Given a confidence, k
    is the least for which this fit's own is at least ``coverage`` with that confidence (Vovk 2012): a wider interval.

    kind : ``linear``, two knots, so that the file holds nothing of the pairs but a slope and a level; ``isotonic``, any
    rising steps. Raises BadInputError for scores that do not rise with ratings, and where there are too few pairs.
    """
    there = np.isfinite(scores)
    known, said = scores[there], gold[there]
    order = np.random.default_rng(seed).permutation(len(said))
    half = len(said) // 2
    for_map, for_margin = order[:half], order[half:]
    if not 0 < coverage < 1 or not (confidence is None or 0 < confidence < 1):
        raise BadInputError(f"coverage {coverage}, confidence {confidence}: each is between 0 and 1", where=scorer)
    at = _rank(len(for_margin), coverage, confidence)
    if half < 3 or at > len(for_margin):
        sure = "" if confidence is None else f" with a confidence of {confidence:.0%}"
        raise BadInputError(f"{len(said)} pairs are too few for an interval of {coverage:.0%}{sure}", where=scorer)
    knots, ratings = (_line if kind == "linear" else _steps)(known[for_map], said[for_map], scale, scorer)
    misses = np.abs(np.interp(known[for_margin], knots, ratings) - said[for_margin])
    margin = float(np.sort(misses)[at - 1])
    return Calibration(scorer, tuple(knots), tuple(ratings), margin, coverage, *scale, confidence=confidence)


def _rank(n: int, coverage: float, confidence: float | None) -> int:
    """Which of n distances, by size, is the margin; n + 1 where none is far enough.

    The coverage of the k-th of them is at least c with the chance that at most k - 1 of n draws fall within the true
    c-quantile: the distribution function of Binomial(n, c) at k - 1.
    """
    if confidence is None:
        return math.ceil((n + 1) * coverage)
    chance = 0.0
    for within in range(n):
        ways = math.lgamma(n + 1) - math.lgamma(within + 1) - math.lgamma(n - within + 1)
        chance += math.exp(ways + within * math.log(coverage) + (n - within) * math.log1p(-coverage))
        if chance >= confidence:
            return within + 1
    return n + 1


def _line(scores: Scores, gold: Scores, scale: tuple[float, float], where: str) -> tuple[list[float], list[float]]:
    """A straight line between the scores at which it reaches the scale's ends."""
    centred = scores - scores.mean()
    slope = float(centred @ gold / max(float(centred @ centred), 1e-300))
    if slope <= 0:
        raise BadInputError("scores do not rise with what people say", where=where)
    level = float(gold.mean() - slope * scores.mean())
    return [(end - level) / slope for end in scale], list(scale)


def _steps(scores: Scores, gold: Scores, scale: tuple[float, float], where: str) -> tuple[list[float], list[float]]:
    try:
        from sklearn.isotonic import IsotonicRegression
    except ModuleNotFoundError as error:
        raise missing_package(error, where="isotonic calibration") from error
    fitted = IsotonicRegression(y_min=scale[0], y_max=scale[1], out_of_bounds="clip").fit(scores, gold)
    knots, ratings = ([float(x) for x in held] for held in (fitted.X_thresholds_, fitted.y_thresholds_))
    if len(knots) < 2:
        raise BadInputError("scores do not rise with what people say", where=where)
    return knots, ratings


def save_calibration(calibration: Calibration, path: str | os.PathLike[str]) -> None:
    """As a JSON file."""
    document = {
        "kind": "calibration",
        **{field.name: getattr(calibration, field.name) for field in fields(Calibration)},
    }
    Path(path).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def load_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Raises BadInputError for a file that does not hold what ``save_calibration`` writes."""
    return _calibration_of(read_document(path, "calibration"), str(path))


@cache
def shipped_calibration(scorer: str) -> Calibration:
    """The one that comes with Quiltwork for a scorer, by its name: a straight line fitted on CTR. Raises NotFoundError
    naming those there are."""
    folder = files(__package__).joinpath(_SHIPPED)
    known = sorted(path.name.removesuffix(".json") for path in folder.iterdir() if path.name.endswith(".json"))
    if scorer not in known:
        raise NotFoundError(
            f"none is shipped for {scorer[:80]!r}", where="calibration", hint=f"known: {', '.join(known)}"
        )
    name = f"{scorer}.json"
    return _calibration_of(json.loads(folder.joinpath(name).read_text(encoding="utf-8")), f"{_SHIPPED}/{name}")


def _calibration_of(document: Mapping[str, Any], where: str) -> Calibration:
    scorer = document.get("scorer")
    if not isinstance(scorer, str):
        raise BadInputError("is not a name", where=f"{where}: scorer")
    scores, ratings = (tuple(numbers_of(document.get(name), f"{where}: {name}")) for name in ("scores", "ratings"))
    margin, cover, low, high = [
        number(document.get(name), f"{where}: {name}") for name in ("margin", "coverage", "low", "high")
    ]
    sure = document.get("confidence")
    confidence = None if sure is None else number(sure, f"{where}: confidence")
    try:
        return Calibration(scorer, scores, ratings, margin, cover, low, high, confidence)
    except BadInputError as error:
        raise BadInputError(error.what, where=where) from error
