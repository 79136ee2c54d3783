"""Vectors kept for whoever asks for the same sentence again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from quiltwork.core.errors import BadInputError
from quiltwork.text.embedder import Embedded, Embedder, Vectors
from quiltwork.text.texts import require_texts

ENTRY_BYTES = 320
"""What an entry costs besides its numbers and its text: keys, tuples, the table's place."""


class Digested(Embedder, Protocol):
    """An embedder that says which model it is, by all that its vectors hang on."""

    @property
    def digest(self) -> str: ...


@dataclass(frozen=True)
class CacheCounts:
    """What a cache has done so far, and holds."""

    hits: int
    """Sentences that were answered from it."""
    misses: int
    """Sentences that were computed; one that is in a request twice is computed once and counted twice."""
    entries: int
    bytes: int
    """Held, about."""


@dataclass(frozen=True)
class _Entry:
    vector: Vectors
    known: bool
    tokens: int
    used: int
    truncated: bool


class VectorCache:
    """Vectors by model and sentence, those that were asked for last; shared by embedders and threads.

    most_bytes : what it may hold. One that is larger than that is not kept. Raises BadInputError for a negative number.
    """

    def __init__(self, most_bytes: int) -> None:
        if most_bytes < 0:
            raise BadInputError(f"{most_bytes} is not a number of bytes", where="most_bytes")
        self._most = most_bytes
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._bytes = self._hits = self._misses = 0
        self._lock = threading.Lock()

    def counts(self) -> CacheCounts:
        """What it has done so far."""
        with self._lock:
            return CacheCounts(self._hits, self._misses, len(self._entries), self._bytes)

    def take(self, digest: str, sentences: Sequence[str]) -> dict[str, _Entry]:
        """What is there of these sentences."""
        found: dict[str, _Entry] = {}
        with self._lock:
            for text in sentences:
                entry = self._entries.get((digest, text))
                if entry is None:
                    self._misses += 1
                    continue
                self._hits += 1
                self._entries.move_to_end((digest, text))
                found[text] = entry
        return found

    def put(self, digest: str, entries: dict[str, _Entry]) -> None:
        """Keep these, at the cost of what was not asked for longest."""
        with self._lock:
            for text, entry in entries.items():
                key, size = (digest, text), _size(text, entry)
                if key in self._entries or size > self._most:
                    continue
                self._entries[key] = entry
                self._bytes += size
                while self._bytes > self._most:
                    (_, old), gone = self._entries.popitem(last=False)
                    self._bytes -= _size(old, gone)


@dataclass(frozen=True)
class Cached:
    """An embedder that asks a cache first. While they are held, equal sentences have the same vector bit for bit."""

    embedder: Digested
    cache: VectorCache

    @property
    def name(self) -> str:
        return self.embedder.name

    @property
    def digest(self) -> str:
        return self.embedder.digest

    @property
    def dimensions(self) -> int:
        return self.embedder.dimensions

    def embed(self, sentences: Sequence[str]) -> Embedded:
        """Vectors of these sentences. What two callers ask for at the same time may be computed twice."""
        digest = self.embedder.digest
        found = self.cache.take(digest, require_texts(sentences))
        if missing := [text for text in dict.fromkeys(sentences) if text not in found]:
            fresh = _entries(missing, self.embedder.embed(missing))
            self.cache.put(digest, fresh)
            found |= fresh
        return _joined([found[text] for text in sentences], self.dimensions)


def _entries(texts: Sequence[str], embedded: Embedded) -> dict[str, _Entry]:
    entries = {}
    for index, text in enumerate(texts):
        vector = embedded.vectors[index].copy()  # a view would keep the whole request's vectors
        vector.flags.writeable = False
        told = bool(embedded.known[index]), int(embedded.tokens[index]), int(embedded.used[index])
        entries[text] = _Entry(vector, *told, bool(embedded.truncated[index]))
    return entries


def _joined(entries: Sequence[_Entry], dimensions: int) -> Embedded:
    vectors = np.stack([one.vector for one in entries]) if entries else np.zeros((0, dimensions), np.float32)
    return Embedded(
        vectors,
        np.array([one.known for one in entries], np.bool_),
        np.array([one.tokens for one in entries], np.int64),
        np.array([one.used for one in entries], np.int64),
        np.array([one.truncated for one in entries], np.bool_),
    )


def _size(text: str, entry: _Entry) -> int:
    return entry.vector.nbytes + len(text) * (1 if text.isascii() else 4) + ENTRY_BYTES
