"""Word vectors that are finished: what a folder of them holds, and the vector of any word."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json
from quiltwork.text.embedder import Vectors
from quiltwork.text.files import ModelFiles, Tensors, read_json
from quiltwork.text.vectors.subwords import Subwords
from quiltwork.text.vectors.training_text import Vocabulary
from quiltwork.zoo.config import Fields

MODEL_TYPE = "word-vectors"
_CONFIG, _TENSORS, _WORDS = "config.json", "model.safetensors", "vocabulary.txt"


@dataclass(frozen=True, eq=False)
class Huffman:
    """What hierarchical softmax learnt. nodes : (inner nodes, d). The path of word w from the root is
    ``points[starts[w]:starts[w + 1]]``, rows of ``nodes``; ``codes`` of the same range are its turns (0 or 1)."""

    nodes: Vectors
    starts: npt.NDArray[np.int64]
    points: npt.NDArray[np.int32]
    codes: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Common:
    """What the training corpus's vectors have in common. mean : (d,). directions : (most, d), orthonormal, the one in
    which they differ most (or, where the mean is 0, are longest) first."""

    mean: Vectors
    directions: Vectors


@dataclass(frozen=True, eq=False)
class Ngrams:
    """vectors : (buckets, d). seen : (buckets,) whether a word of the vocabulary has it; others were never learnt."""

    subwords: Subwords
    vectors: Vectors
    seen: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class WordVectors:
    """vectors : (words, d) of the vocabulary's words; with ``ngrams``, other words have one too.

    common : by the name of what it is common to; see ``removal``. Raises BadInputError where shapes do not fit.
    """

    vocabulary: Vocabulary
    vectors: Vectors
    ngrams: Ngrams | None = None
    huffman: Huffman | None = None
    common: Mapping[str, Common] = field(default_factory=dict)
    where: str = "word vectors"

    def __post_init__(self) -> None:
        n = len(self.vocabulary.words)
        if self.vectors.ndim != 2 or len(self.vectors) != n or not n:
            raise BadInputError(f"has vectors of shape {self.vectors.shape} for {n} words", where=self.where)
        if len(self.vocabulary.counts) != n or len(self.vocabulary.having) != n:
            raise BadInputError(f"does not count each of its {n} words", where=self.where)
        for name, array in self._widths().items():
            if array.ndim != 2 or array.shape[1] != self.dimensions:
                raise BadInputError(f"has {name} of shape {array.shape}, not {self.dimensions} wide", where=self.where)
        if (
            self.ngrams is not None
            and not len(self.ngrams.vectors) == len(self.ngrams.seen) == self.ngrams.subwords.buckets
        ):
            raise BadInputError("has other n-grams than buckets", where=self.where)
        if self.huffman is not None and len(self.huffman.starts) != n + 1:
            raise BadInputError(f"has no path for each of its {n} words", where=self.where)

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return int(self.vectors.shape[1])

    @cached_property
    def index(self) -> dict[str, int]:
        """Where a word is in the vocabulary."""
        return {word: i for i, word in enumerate(self.vocabulary.words)}

    def vector(self, word: str) -> Vectors | None:
        """The vector of a word (d,); that of its runs of letters where it is not in the vocabulary, None where there is
        nothing known of these either."""
        place = self.index.get(word)
        if place is not None:
            return np.asarray(self.vectors[place])
        if self.ngrams is None:
            return None
        buckets = [bucket for bucket in self.ngrams.subwords.of(word) if self.ngrams.seen[bucket]]
        if not buckets:
            return None
        return np.asarray(self.ngrams.vectors[buckets].mean(axis=0, dtype=np.float64).astype(np.float32))

    def with_common(self, common: Mapping[str, Common]) -> WordVectors:
        """The same with other ``common``."""
        return replace(self, common=dict(common))

    def save(self, folder: Path, *, training: Mapping[str, Json], pooling: Json = None) -> None:
        """Write the model's files into a folder. training : told in config.json. pooling : the one to take where
        nobody asks for another. Raises OSError."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        subwords = None if self.ngrams is None else self.ngrams.subwords
        config = {
            "model_type": MODEL_TYPE,
            "dimensions": self.dimensions,
            "tokens": self.vocabulary.tokens,
            "sentences": self.vocabulary.sentences,
            "subwords": None if subwords is None else vars(subwords),
            "common": sorted(self.common),
            "pooling": pooling,
            "training": dict(training),
        }
        (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (folder / _WORDS).write_text("\n".join(self.vocabulary.words) + "\n", encoding="utf-8", newline="\n")
        save_file({name: np.ascontiguousarray(array) for name, array in self._tensors().items()}, folder / _TENSORS)

    @classmethod
    def load(cls, files: ModelFiles) -> WordVectors:
        """Raises NotFoundError where a file is missing, BadInputError naming the file that is not as it should be."""
        config = Fields(read_json(files, _CONFIG), {}, f"{files.where}: {_CONFIG}")
        if config.get("model_type") != MODEL_TYPE:
            raise config.error("model_type", f"is {str(config.get('model_type'))[:40]!r} instead of {MODEL_TYPE!r}")
        try:
            words = files.read(_WORDS).decode("utf-8").removesuffix("\n").split("\n")
        except UnicodeDecodeError as error:
            raise BadInputError("is not UTF-8", where=f"{files.where}: {_WORDS}") from error
        found = _Found(files.tensors(_TENSORS), f"{files.where}: {_TENSORS}")
        vocabulary = Vocabulary(
            tuple(words),
            found("counts", np.int64),
            found("having", np.int64),
            config.size("sentences", 1 << 62),
            config.size("tokens", 1 << 62),
        )
        return cls(
            vocabulary,
            found("vectors", np.float32),
            _ngrams(config, found),
            _huffman(found),
            _common(config, found),
            where=files.where,
        )

    def _widths(self) -> dict[str, npt.NDArray[Any]]:
        found: dict[str, npt.NDArray[Any]] = {name: common.directions for name, common in self.common.items()}
        if self.ngrams is not None:
            found["n-grams"] = self.ngrams.vectors
        if self.huffman is not None:
            found["nodes"] = self.huffman.nodes
        return found

    def _tensors(self) -> dict[str, npt.NDArray[Any]]:
        found: dict[str, npt.NDArray[Any]] = {
            "vectors": self.vectors,
            "counts": self.vocabulary.counts,
            "having": self.vocabulary.having,
        }
        if self.ngrams is not None:
            found |= {"ngrams": self.ngrams.vectors, "seen": self.ngrams.seen.astype(np.uint8)}
        if self.huffman is not None:
            found |= {f"huffman.{name}": array for name, array in vars(self.huffman).items()}
        for name, common in self.common.items():
            found |= {f"common.{name}.mean": common.mean, f"common.{name}.directions": common.directions}
        return found


@dataclass(frozen=True)
class _Found:
    """Tensors of a file, each of the type it has to have."""

    tensors: Tensors
    where: str

    def has(self, name: str) -> bool:
        return name in self.tensors

    def __call__(self, name: str, dtype: Any) -> npt.NDArray[Any]:
        if name not in self.tensors:
            raise BadInputError("is missing", where=f"{self.where}: {name}")
        array = self.tensors[name]
        if array.dtype != dtype:
            raise BadInputError(f"is {array.dtype} instead of {np.dtype(dtype)}", where=f"{self.where}: {name}")
        if array.dtype == np.float32 and not np.isfinite(array).all():
            raise BadInputError("has values that are not finite", where=f"{self.where}: {name}")
        return array


def _ngrams(config: Fields, found: _Found) -> Ngrams | None:
    told = config.get("subwords")
    if told is None:
        return None
    if not isinstance(told, dict):
        raise config.error("subwords", "must be named fields, or null")
    of = Fields(told, {}, f"{config.where}: subwords")
    subwords = Subwords(of.size("shortest"), of.size("longest"), of.size("buckets"))
    return Ngrams(subwords, found("ngrams", np.float32), found("seen", np.uint8).astype(bool))


def _huffman(found: _Found) -> Huffman | None:
    if not found.has("huffman.nodes"):
        return None
    return Huffman(
        found("huffman.nodes", np.float32),
        found("huffman.starts", np.int64),
        found("huffman.points", np.int32),
        found("huffman.codes", np.uint8),
    )


def _common(config: Fields, found: _Found) -> dict[str, Common]:
    names = config.get("common")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise config.error("common", "must be a list of names")
    return {
        str(name): Common(found(f"common.{name}.mean", np.float32), found(f"common.{name}.directions", np.float32))
        for name in names
    }
