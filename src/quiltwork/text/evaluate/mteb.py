"""An embedder as the Massive Text Embedding Benchmark wants it: ``mteb.evaluate(MtebEncoder(embedder), tasks)``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from quiltwork.core.registry import missing_package
from quiltwork.text.embedder import Embedder, Vectors


class MtebEncoder:
    """mteb's encoder protocol (2.26) around an embedder; similarity is the cosine.

    Prompts are not used: an embedder knows its own. A sentence of which nothing is known has a vector of zeros, and so
    the cosine 0 with any other. revision : of the model, where results are kept. training_sets : names of mteb's
    datasets that the model was trained on, none if it is known to be none. Raises QuiltworkError without mteb.
    """

    def __init__(
        self, embedder: Embedder, revision: str | None = None, *, training_sets: Iterable[str] | None = None
    ) -> None:
        self._embedder = embedder
        try:
            from mteb.models.model_meta import ModelMeta, ScoringFunction
        except ModuleNotFoundError as error:
            raise missing_package(error, where="MTEB") from error
        told = {
            "name": f"quiltwork/{_plain(embedder.name)}",
            "revision": revision or "no_revision_available",
            "embed_dim": embedder.dimensions,
            "similarity_fn_name": ScoringFunction.COSINE,
            "training_datasets": None if training_sets is None else set(training_sets),
            "use_instructions": False,
            "languages": ["eng-Latn"],
        }
        self._meta = ModelMeta.create_empty(overwrites=told)

    @property
    def mteb_model_meta(self) -> Any:
        """What result files say of the model."""
        return self._meta

    def encode(self, inputs: Iterable[Mapping[str, Sequence[str]]], **how: object) -> Vectors:
        """Vectors (n, dimensions) of all texts of the batches. how : task, split and prompt type; nothing hangs on
        them."""
        sentences = [text for batch in inputs for text in batch["text"]]
        if not sentences:
            return np.zeros((0, self._embedder.dimensions), np.float32)
        return self._embedder.embed(sentences).vectors

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines of all with all (n, m)."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines of those in the same place (n,)."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)


def _plain(name: str) -> str:
    """A name as a part of a path."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "embedder"
