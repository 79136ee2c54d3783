"""Several scores of a pair made one by a regression on what people said."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from quiltwork.core.errors import BadInputError
from quiltwork.text.scorer import Pairs, Scorer, Scores

SCALE = (0.0, 4.0)
"""From nothing in common to the same: the scale of BIOSSES and CTR."""


@dataclass(frozen=True)
class Regression:
    """A rating as a weighted sum of scores, kept within a scale.

    names : the k scores, in their order. weights, usual : (k,) what each is multiplied with, and what stands for it
    where it is NaN: its mean over the pairs of the fit. low, high : the scale.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    intercept: float
    usual: tuple[float, ...]
    low: float = SCALE[0]
    high: float = SCALE[1]

    def __post_init__(self) -> None:
        if not (0 < len(self.names) == len(self.weights) == len(self.usual)) or not self.low < self.high:
            raise BadInputError("has not a weight and a usual value for each score", where="regression")
        if not all(map(math.isfinite, (*self.weights, *self.usual, self.intercept, self.low, self.high))):
            raise BadInputError("has a number that is not finite", where="regression")

    def __call__(self, scores: Scores) -> Scores:
        """Ratings (n,) of scores (n, k)."""
        there = np.where(np.isnan(scores), self.usual, scores)
        return np.asarray(np.clip(there @ np.array(self.weights) + self.intercept, self.low, self.high))


def fit_regression(
    names: Sequence[str], scores: Scores, gold: Scores, *, ridge: float = 0.0, scale: tuple[float, float] = SCALE
) -> Regression:
    """Least squares of ``gold`` (n,) on ``scores`` (n, k).

    ridge : how strongly weights are drawn to 0, in units of the scores' variances, so that it means the same for scores
    of any spread; 0 is ordinary regression. Raises BadInputError where shapes differ, ``gold`` is not finite, or a
    score says nothing of any pair.
    """
    if scores.shape != (len(gold), len(names)) or not len(gold) or ridge < 0 or not np.isfinite(gold).all():
        raise BadInputError(f"{scores.shape} scores for {len(gold)} ratings", where="regression")
    unknown = np.isnan(scores)
    if unknown.all(axis=0).any():
        raise BadInputError("says nothing of any pair", where=names[int(unknown.all(axis=0).argmax())])
    usual = np.nanmean(scores, axis=0)
    centred = np.where(unknown, 0.0, scores - usual)
    spread = np.sqrt((centred * centred).mean(axis=0))
    # What does not vary but for roundings of its mean has weight 0.
    flat = spread <= 1e-12 * np.abs(usual)
    unit = np.where(flat, 0.0, centred) / np.where(flat, 1.0, spread)
    left = np.concatenate([unit, math.sqrt(ridge * len(gold)) * np.eye(len(names))])
    right = np.concatenate([gold - gold.mean(), np.zeros(len(names))])
    weights = np.linalg.lstsq(left, right, rcond=None)[0] / np.where(flat, 1.0, spread)
    intercept = float(gold.mean() - usual @ weights)
    return Regression(tuple(names), tuple(map(float, weights)), intercept, tuple(map(float, usual)), *scale)


@dataclass(frozen=True)
class Hybrid:
    """A regression with the scorers that it was fitted on. Its ``rate`` is on the regression's scale; called as a
    scorer it gives the same from 0 to 1."""

    name: str
    scorers: tuple[Scorer, ...]
    regression: Regression

    def __post_init__(self) -> None:
        names = tuple(scorer.name for scorer in self.scorers)
        if names != self.regression.names:
            wanted = ", ".join(self.regression.names)
            raise BadInputError(f"was fitted on {wanted}, not on {', '.join(names)}", where=self.name)

    def rate(self, pairs: Pairs) -> Scores:
        """Ratings (n,), from the scale's ``low`` to ``high``."""
        return self.regression(stacked(self.scorers, pairs))

    def __call__(self, pairs: Pairs, /) -> Scores:
        low, high = self.regression.low, self.regression.high
        return np.asarray((self.rate(pairs) - low) / (high - low))


def fit_hybrid(name: str, scorers: Sequence[Scorer], pairs: Pairs, gold: Scores, *, ridge: float = 0.0) -> Hybrid:
    """A hybrid of ``scorers`` fitted on these pairs and nothing else. Raises what ``fit_regression`` raises."""
    regression = fit_regression([s.name for s in scorers], stacked(scorers, pairs), gold, ridge=ridge)
    return Hybrid(name, tuple(scorers), regression)


def stacked(scorers: Sequence[Scorer], pairs: Pairs) -> Scores:
    """What k scorers say of n pairs (n, k)."""
    return np.stack([scorer(pairs) for scorer in scorers], axis=1)


def save_regression(regression: Regression, path: str | os.PathLike[str]) -> None:
    """As a JSON file: names and numbers, and nothing of the pairs it was fitted on."""
    document = {"kind": "regression", **{field.name: getattr(regression, field.name) for field in fields(regression)}}
    Path(path).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def load_regression(path: str | os.PathLike[str]) -> Regression:
    """Raises BadInputError for a file that does not hold what ``save_regression`` writes."""
    return regression_of(read_document(path, "regression"), str(path))


def regression_of(document: Mapping[str, Any], where: str) -> Regression:
    """The regression of a JSON object. Raises BadInputError naming what is wrong in it."""
    numbers = {name: number(document.get(name), f"{where}: {name}") for name in ("intercept", "low", "high")}
    lists = {name: tuple(numbers_of(document.get(name), f"{where}: {name}")) for name in ("weights", "usual")}
    names = document.get("names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadInputError("is not a list of names", where=f"{where}: names")
    try:
        return Regression(tuple(names), lists["weights"], numbers["intercept"], lists["usual"], numbers["low"],
                          numbers["high"])  # fmt: skip
    except BadInputError as error:
        raise BadInputError(error.what, where=where) from error


def read_document(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """A JSON object that says it is of that kind. Raises BadInputError where it is not there or says something else."""
    try:
        found = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise BadInputError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise BadInputError("is not JSON", where=str(path)) from error
    if not isinstance(found, dict) or found.get("kind") != kind:
        raise BadInputError(f"is not a {kind}", where=str(path))
    return found


def number(value: Any, where: str) -> float:
    """A finite number of a JSON document. Raises BadInputError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadInputError("is not a finite number", where=where)
    return float(value)


def numbers_of(value: Any, where: str) -> list[float]:
    """Finite numbers of a JSON document. Raises BadInputError."""
    if not isinstance(value, list):
        raise BadInputError("is not a list of numbers", where=where)
    return [number(one, where) for one in value]
