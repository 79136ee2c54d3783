"""A similarity matrix of two lists of sentences with all-MiniLM-L6-v2: by sentence-transformers, by the text room."""

from __future__ import annotations

import lzma
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

CORPUS = Path("text") / "corpus" / "elife.ccby.txt.xz"
BATCHES = (8, 16, 32, 64, 128)
ATTENTIONS = ("sdpa", "eager")
LONGEST_WORD = 100
"""Letters; of longer words a tokenizer of word pieces makes one unknown token."""


def sentences(data: Path, count: int, seed: int) -> list[str]:
    """So many distinct sentences of the corpus, drawn without looking at them. Lines with a longer word than
    ``LONGEST_WORD`` are none: sequences of proteins, which the encoder does not know and Quiltwork gives no cosine."""
    with lzma.open(data / CORPUS, "rt", encoding="utf-8") as lines:
        distinct = list(dict.fromkeys(line.strip() for line in lines if _is_sentence(line)))
    places = np.random.default_rng(seed).choice(len(distinct), count, replace=False)
    return [distinct[place] for place in places]


def _is_sentence(line: str) -> bool:
    words = line.split()
    return bool(words) and not line.startswith("# ") and max(map(len, words)) <= LONGEST_WORD


class _Matrix:
    """Holds the sentences and the last result, so that neither is sent while the clock runs."""

    def __init__(self, left: Sequence[str], right: Sequence[str]) -> None:
        self.left, self.right = list(left), list(right)
        self.vectors: Any = None
        self.found: Any = None

    def results(self) -> tuple[Any, Any]:
        """Vectors of both lists, and the matrix."""
        return self.vectors, self.found


class Ours(_Matrix):
    """The text room's encoder, without a cache."""

    def __init__(self, left: Sequence[str], right: Sequence[str]) -> None:
        super().__init__(left, right)
        from quiltwork.text.encoder import packaged_encoder

        self._encoder = packaged_encoder()
        self._encoder.embed(self.left[:64])

    def matrix(self) -> None:
        """Embed both lists and compare all with all."""
        from quiltwork.text.matrix import cosine_matrix

        a, b = self._encoder.embed(self.left), self._encoder.embed(self.right)
        self.vectors, self.found = np.concatenate([a.vectors, b.vectors]), cosine_matrix(a, b)


class Tuned(_Matrix):
    """sentence-transformers with the batch size and the attention that are fastest here for these sentences."""

    def __init__(self, left: Sequence[str], right: Sequence[str], *, tuned_on: int) -> None:
        super().__init__(left, right)
        os.environ["HF_HUB_OFFLINE"] = "1"
        self.tried = dict(sorted(self._tried(tuned_on), key=lambda one: one[1]))
        attention, size = next(iter(self.tried)).split(", batch ")
        self._model, self._batch = _model(attention), int(size)
        self._model.encode(self.left[:64], batch_size=self._batch)

    def tuning(self) -> dict[str, float]:
        """Seconds of what was tried, the fastest first: that is what it runs with."""
        return self.tried

    def matrix(self) -> None:
        """Embed both lists and compare all with all."""
        a, b = (
            self._model.encode(one, batch_size=self._batch, convert_to_tensor=True) for one in (self.left, self.right)
        )
        found = self._model.similarity(a, b)
        self.vectors, self.found = np.concatenate([a.numpy(), b.numpy()]), found.numpy()

    def _tried(self, count: int) -> Iterator[tuple[str, float]]:
        some = self.left[:count]
        for attention in ATTENTIONS:
            model = _model(attention)
            model.encode(some[:64])
            for size in BATCHES:
                times = []
                for _ in range(3):
                    start = time.perf_counter()
                    model.encode(some, batch_size=size)
                    times.append(time.perf_counter() - start)
                yield f"{attention}, batch {size}", min(times)


def _model(attention: str) -> Any:
    from sentence_transformers import SentenceTransformer

    from quiltwork.text.encoder import packaged_files

    where = packaged_files().where
    return SentenceTransformer(
        where, device="cpu", local_files_only=True, model_kwargs={"attn_implementation": attention}
    )
