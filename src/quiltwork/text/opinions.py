"""What is said of a pair besides its score: a person's likely rating, and whether one denies the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from quiltwork.core.errors import NotFoundError
from quiltwork.core.servable import Json
from quiltwork.text.scorer import Scores


class Opinions(Protocol):
    """All of it as JSON, one item for each pair."""

    def ratings(self, scorer: str, scores: Scores) -> Sequence[Json]:
        """What people would say: an object of ``value``, ``low``, ``high`` and ``coverage``; None where there is no
        telling."""
        ...

    def polarities(self, pairs: Sequence[tuple[str, str]]) -> Sequence[Json]:
        """An object of ``kind`` (same, opposite, unknown), ``overlap`` and ``evidence``."""
        ...

    def explanations(self, pairs: Sequence[tuple[str, str]]) -> Sequence[Json]:
        """Which words answer to each other (``explanation.Explanation``)."""
        ...


@dataclass(frozen=True)
class Shipped:
    """With the calibrations and the lexicon that come with the package."""

    def ratings(self, scorer: str, scores: Scores) -> Sequence[Json]:
        """By the calibration of that scorer, where one is shipped."""
        from quiltwork.text.calibrate import shipped_calibration

        try:
            calibration = shipped_calibration(scorer)
        except NotFoundError:  # people were not asked about what this scorer says
            return [None] * len(scores)
        found = calibration(scores)
        return [
            None if value != value else {"value": float(value), "low": float(low), "high": float(high),
                                         "coverage": calibration.coverage}
            for value, low, high in zip(found.value, found.low, found.high, strict=True)
        ]  # fmt: skip

    def polarities(self, pairs: Sequence[tuple[str, str]]) -> Sequence[Json]:
        """By the detector."""
        from quiltwork.text.polarity.detect import polarity_of

        return [asdict(polarity_of(a, b)) for a, b in pairs]

    def explanations(self, pairs: Sequence[tuple[str, str]]) -> Sequence[Json]:
        """By the detector's alignment."""
        from quiltwork.text.explanation import explain

        return [explain(a, b).to_json() for a, b in pairs]
