"""How alike the sentences of pairs are by a model, and what else is said of them, in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from quiltwork.core.servable import Json
from quiltwork.text.answers import of_pairs
from quiltwork.text.embedder import Embedder
from quiltwork.text.opinions import Opinions, Shipped

PIECE = 1024
"""Pairs embedded at a time."""


def compare(
    pairs: Sequence[tuple[str, str]],
    embedder: Embedder,
    *,
    explained: bool = False,
    opinions: Opinions | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> list[dict[str, Json]]:
    """For each pair an object of

    ``score`` : the cosine of the two vectors, None where a sentence has none;
    ``rating`` : what people would say, 0 to 4, with its interval, None for a model that is not calibrated;
    ``polarity`` : whether one says the opposite of the other, and the words that tell;
    ``truncated`` : whether the end of a sentence was left out because it is too long for the model;
    ``explain`` : where it is asked for, which words answer to each other, which have no answer, which deny.

    progress : told how many pairs were done since it was last told.
    """
    said: list[dict[str, Json]] = []
    for start in range(0, len(pairs), PIECE):
        piece = pairs[start : start + PIECE]
        both = embedder.embed([sentence for pair in piece for sentence in pair])
        left, right = (both.rows(slice(side, None, 2)) for side in (0, 1))
        said += of_pairs(piece, left, right, embedder.name, opinions or Shipped(), explained=explained)
        progress(len(piece))
    return said
