"""Measures by name, and how alike two sentences are in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from quiltwork.core.errors import BadInputError
from quiltwork.text.fuzzy import FUZZY, fuzzy
from quiltwork.text.measure import Measure
from quiltwork.text.overlap import block, jaccard, liblock, qgram
from quiltwork.text.pipeline import DEFAULT, Pipeline, pipeline_named
from quiltwork.text.soft import cosine, lexical, soft

MEASURES: Mapping[str, Callable[[], Measure]] = {
    "jaccard": lambda: jaccard,
    "qgram": lambda: qgram,
    "block": lambda: block,
    "liblock": lambda: liblock,
    "cosine": lambda: cosine,
    "soft": lambda: soft,
    "lexical": lambda: lexical,
    **{name: partial(fuzzy, name) for name in FUZZY},
}
"""Measures that need no collection; ``TfIdf.fit`` makes one that does."""


def measure_named(name: str) -> Measure:
    """Raises BadInputError for a name that is not in ``MEASURES``, QuiltworkError where its package is missing."""
    if name not in MEASURES:
        hint = "it is fitted on a collection: TfIdf.fit" if name == "tfidf" else None
        raise BadInputError(f"{name[:40]!r} is not one of {', '.join(MEASURES)}", where="measure", hint=hint)
    return MEASURES[name]()


def similarity(a: str, b: str, *, measure: str | Measure = "liblock", pipeline: str | Pipeline = DEFAULT) -> float:
    """How alike two sentences are, from 0 to 1. Both arguments are a name, or what was made by the caller: a ``TfIdf``,
    a pipeline with a field replaced.

    A sentence and its denial are much alike by all of these (``polarity_of`` tells them apart), but not the same unless
    the pipeline that is named drops negators or the measure is ``token_set``, which is 1 for a part of a sentence.
    Raises what ``measure_named`` and ``pipeline_named`` raise.
    """
    score = measure_named(measure) if isinstance(measure, str) else measure
    prepare = pipeline_named(pipeline) if isinstance(pipeline, str) else pipeline
    return score(prepare(a).tokens, prepare(b).tokens)
