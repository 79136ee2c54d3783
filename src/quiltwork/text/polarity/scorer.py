"""A score of alikeness that contradiction lowers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quiltwork.text.polarity.detect import GATE, Polarity, polarity_of

if TYPE_CHECKING:
    from quiltwork.text.polarity.lexicon import Lexicon
    from quiltwork.text.scorer import Pairs, Scorer, Scores


def adjusted(score: float, found: Polarity) -> float:
    """A score that says how alike two sentences are, lowered by as much as they overlap where they are opposite.

    What is below zero already stays as it is; NaN stays NaN.
    """
    if found.kind != "opposite" or not score > 0:
        return score
    return score * (1.0 - found.overlap)


@dataclass(frozen=True)
class WithPolarity:
    """A scorer whose scores are lowered where two sentences are opposite. lexicon : None for the shipped one."""

    scorer: Scorer
    lexicon: Lexicon | None = None
    gate: float = GATE

    @property
    def name(self) -> str:
        return f"{self.scorer.name} with polarity"

    def __call__(self, pairs: Pairs, /) -> Scores:
        scores = self.scorer(pairs)
        found = (polarity_of(a, b, self.lexicon, self.gate) for a, b in pairs)
        return np.array([adjusted(float(s), p) for s, p in zip(scores, found, strict=True)], np.float64)
