"""A corpus as numbers: which word stands where, and where sentences and documents end."""

from __future__ import annotations

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import numpy as np
import numpy.typing as npt

from quiltwork.core.checkpoint import CheckpointFile
from quiltwork.core.errors import BadInputError
from quiltwork.core.progress import Say, ignore
from quiltwork.core.trainable import State
from quiltwork.text.corpus import corpus_files, read_corpus
from quiltwork.text.tokens import TOKENS_VERSION, corenlp_tokens

Ids = npt.NDArray[np.int32]
Ends = npt.NDArray[np.int64]

_FORMAT = "quiltwork tokens 1"
_TOLD_EVERY = 50_000


@dataclass(frozen=True)
class TokenCorpus:
    """All sentences one after the other; ``ids`` are positions in ``words``."""

    words: tuple[str, ...]
    """In the order in which they come up first."""
    ids: Ids
    """(tokens,)"""
    sentence_ends: Ends
    """(sentences,) where each ends in ``ids``; none is empty."""
    document_ends: Ends
    """(documents,) where each ends in ``sentence_ends``."""
    digest: str
    """Of the files' content and of how they were cut: the same digest, the same corpus."""


def word_tokens(sentence: str) -> tuple[str, ...]:
    """How vectors are trained and asked for: CoreNLP's tokens of Unicode's compatibility form (NFKC)."""
    return corenlp_tokens(normalize("NFKC", sentence))


def token_corpus(
    paths: Sequence[Path], *, split: bool = False, cache: Path | None = None, say: Say = ignore
) -> TokenCorpus:
    """Read a corpus and cut it; or, where ``cache`` is a folder that has it already, take it from there.

    Raises what ``read_corpus`` raises.
    """
    digest = _digest(paths, split)
    place = None if cache is None else CheckpointFile(cache / f"{digest}.tokens.safetensors")
    kept = None if place is None else place.read()
    if kept is not None:
        words = kept.arrays["words"].tobytes().decode().split("\n")
        ids, sentence_ends, document_ends = (kept.arrays[name] for name in _ARRAYS)
        return TokenCorpus(
            tuple(words), ids.astype(np.int32), sentence_ends.astype(np.int64), document_ends.astype(np.int64), digest
        )
    made = _cut(paths, split, digest, say)
    if place is not None:
        words_array = np.frombuffer("\n".join(made.words).encode(), np.uint8)
        place.write(State({"words": words_array, **{name: getattr(made, name) for name in _ARRAYS}}, {}))
    return made


_ARRAYS = ("ids", "sentence_ends", "document_ends")


def _cut(paths: Sequence[Path], split: bool, digest: str, say: Say) -> TokenCorpus:
    index: defaultdict[str, int] = defaultdict()
    index.default_factory = index.__len__
    ids, sentence_ends, document_ends = array("i"), array("q"), array("q")
    for document in read_corpus(paths, split=split):
        before = len(sentence_ends)
        for sentence in document.sentences:
            tokens = corenlp_tokens(sentence)
            if tokens:
                ids.extend([index[token] for token in tokens])
                sentence_ends.append(len(ids))
                if len(sentence_ends) % _TOLD_EVERY == 0:
                    say(f"{len(sentence_ends)} sentences cut")
        if len(sentence_ends) > before:
            document_ends.append(len(sentence_ends))
    if not ids:
        raise BadInputError("has no word", where=", ".join(map(str, paths)))
    return TokenCorpus(
        tuple(index),
        np.array(ids, np.int32),
        np.array(sentence_ends, np.int64),
        np.array(document_ends, np.int64),
        digest,
    )


def _digest(paths: Sequence[Path], split: bool) -> str:
    total = hashlib.blake2b(f"{_FORMAT}\0{TOKENS_VERSION}\0{split}".encode(), digest_size=16)
    for path in corpus_files(paths):
        try:
            with path.open("rb") as file:
                own = hashlib.file_digest(file, "blake2b")
        except OSError as error:
            raise BadInputError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
        total.update(f"\0{path.name}\0".encode() + own.digest())
    return total.hexdigest()
