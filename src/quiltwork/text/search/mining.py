"""Sentences of a collection that are near each other and say the opposite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quiltwork.core.errors import BadInputError
from quiltwork.text.search.index import Index

if TYPE_CHECKING:
    from quiltwork.text.polarity.detect import Polarity

LEAST = 0.75
NEIGHBOURS = 10


@dataclass(frozen=True)
class Opposite:
    """Two sentences of the index, the row of the first smaller, their cosine, and what makes them opposite."""

    rows: tuple[int, int]
    texts: tuple[str, str]
    score: float
    polarity: Polarity


def opposites(
    index: Index,
    *,
    least: float = LEAST,
    neighbours: int = NEIGHBOURS,
    judge: Callable[[str, str], Polarity] | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Iterator[Opposite]:
    """Every pair that one of the two has among its nearest neighbours, with a cosine of ``least`` or more, and that is
    opposite; in the order of the rows, each pair once.

    judge : what tells the polarity; the detector that comes with the package if not given. progress : told how many
    sentences were looked at since it was last told.
    """
    if not -1 <= least <= 1:
        raise BadInputError(f"{least} is not from -1 to 1", where="least")
    if neighbours < 1:
        raise BadInputError(f"{neighbours} is not a number of neighbours", where="neighbours")
    decide = judge or _shipped_judge()
    seen: set[tuple[int, int]] = set()
    for start, block in index.blocks(256):
        rows, scores = index.nearest(np.asarray(block, np.float32), neighbours + 1)
        for at, (near, cosines) in enumerate(zip(rows, scores, strict=True), start):
            for other, score in zip(near.tolist(), cosines.tolist(), strict=True):
                pair = (min(at, other), max(at, other))
                if other == at or score < least or pair in seen:
                    continue
                seen.add(pair)
                texts = index.text(pair[0]), index.text(pair[1])
                found = decide(*texts)
                if found.kind == "opposite":
                    yield Opposite(pair, texts, score, found)
        progress(len(block))


def _shipped_judge() -> Callable[[str, str], Polarity]:
    from quiltwork.text.polarity.detect import polarity_of

    return polarity_of
