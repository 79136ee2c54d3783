"""From vectors to what a request gets back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json, Part
from quiltwork.text.embedder import Embedded, Vectors, cosines
from quiltwork.text.matrix import cosine_matrix
from quiltwork.text.opinions import Opinions
from quiltwork.text.tasks import Asked
from quiltwork.zoo.types import Model

MATRYOSHKA = ("matryoshka_dimensions", "is_matryoshka")
"""Fields of config.json that say that a vector's beginning is a vector too: the lengths, or that any will do."""

NEARLY_ONE = 1 - 1e-5


def answer(
    asked: Asked, left: Embedded, right: Embedded, name: str, model: Model, scorer: str, opinions: Opinions
) -> Part:
    """The reply to a request, from the vectors of its sentences.

    name : what the caller calls the model. scorer : what the embedder is called.

    Raises BadInputError for ``dimensions`` that the model does not have.
    """
    usage = {"prompt_tokens": int(left.used.sum() + right.used.sum())}
    usage["total_tokens"] = usage["prompt_tokens"]
    served: dict[str, Json] = {"model": name, "version": model.version}
    if asked.what == "vectors":
        vectors = shortened(left.vectors, asked.dimensions, model)
        fields = {
            "dimensions": vectors.shape[1],
            "unknown": np.flatnonzero(~left.known).tolist(),
            "truncated": np.flatnonzero(left.truncated).tolist(),
            "usage": usage,
            **served,
        }
        return Part(fields, {"vectors": np.ascontiguousarray(vectors, "<f4").tobytes()}, last=True)
    if asked.what == "matrix":
        truncated = {"a": np.flatnonzero(left.truncated).tolist(), "b": np.flatnonzero(right.truncated).tolist()}
        return Part({"matrix": matrix(left, right), "truncated": truncated, "usage": usage, **served}, last=True)
    pairs = list(zip(asked.left, asked.right, strict=True))
    said = of_pairs(pairs, left, right, scorer, opinions, explained=asked.explain)
    return Part({"pairs": said, "usage": usage, **served}, last=True)


def of_pairs(
    pairs: Sequence[tuple[str, str]],
    left: Embedded,
    right: Embedded,
    scorer: str,
    opinions: Opinions,
    *,
    explained: bool = False,
) -> list[dict[str, Json]]:
    """Said of each pair: ``score``, ``rating``, ``polarity``, ``truncated``, ``explain`` where asked for."""
    scores = cosines(left, right)
    cut = left.truncated | right.truncated
    said: list[dict[str, Json]] = [
        {"score": _number(score), "rating": rating, "polarity": polarity, "truncated": bool(short)}
        for score, rating, polarity, short in zip(
            scores, opinions.ratings(scorer, scores), opinions.polarities(pairs), cut, strict=True
        )
    ]
    if not explained:
        return said
    explanations = opinions.explanations(pairs)
    return [{**pair, "explain": explanation} for pair, explanation in zip(said, explanations, strict=True)]


def matrix(a: Embedded, b: Embedded) -> list[list[Json]]:
    """The cosine of each of n sentences with each of m, rounded to seven places, 1 for equal vectors; None where one
    is not known."""
    scores = cosine_matrix(a, b)
    for row, column in np.argwhere(scores > NEARLY_ONE):
        if (a.vectors[row] == b.vectors[column]).all():
            scores[row, column] = 1.0
    shown: list[list[Json]] = scores.astype(np.float64).round(7).tolist()
    if a.known.all() and b.known.all():
        return shown
    return [[None if score != score else score for score in row] for row in shown]


def shortened(vectors: Vectors, dimensions: int | None, model: Model) -> Vectors:
    """The beginnings of vectors, of length 1 again. Raises BadInputError where the model was not made for that."""
    own = vectors.shape[1]
    if dimensions is None or dimensions == own:
        return vectors
    lengths, any_length = (model.config.get(field) for field in MATRYOSHKA)
    allowed = lengths if isinstance(lengths, list) else []
    if not (dimensions < own and (dimensions in allowed or (any_length and not allowed))):
        trained = ", ".join(str(length) for length in [*allowed, own]) if not any_length or allowed else f"1 to {own}"
        raise BadInputError(
            f"{dimensions} is not a length of this model's vectors", where="dimensions", hint=f"it has {trained}"
        )
    short = vectors[:, :dimensions]
    norms = np.linalg.norm(short, axis=1, keepdims=True)
    return np.asarray(np.divide(short, norms, out=np.zeros_like(short), where=norms > 0))


def _number(score: float) -> float | None:
    return None if np.isnan(score) else float(score)
