"""Searching an index: the graph finds candidates, their exact cosines put them in order."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError
from quiltwork.text.embedder import Embedder, Vectors
from quiltwork.text.search.building import Graph, new_graph, of_length_one
from quiltwork.text.search.folder import ENDS, GRAPH, TEXTS, VECTORS, check, read_meta

CANDIDATES = 64
"""Found in the graph for every search at least, and put in order by their exact cosines."""


@dataclass(frozen=True)
class Hit:
    """A sentence that was found. row : its place in the index. score : its cosine, of vectors in half precision."""

    row: int
    score: float
    text: str


class Index:
    """An index on disk; any thread may search it.

    The graph is in memory. Vectors and sentences stay on disk: only those of candidates are read.

    whole : check the digests of all files, and not only their sizes; reads them once.
    candidates : how many are taken from the graph; more find more and take longer.

    Raises NotFoundError, BadInputError, CorruptionError naming the file that is not what was written.
    """

    def __init__(self, folder: str | os.PathLike[str], *, whole: bool = True, candidates: int = CANDIDATES) -> None:
        self.folder = Path(folder)
        self.meta = read_meta(self.folder)
        check(self.folder, self.meta, whole=whole)
        settings = Graph(self.meta.connectivity, self.meta.expansion_add, self.meta.expansion_search)
        self._graph = new_graph(self.meta.dimensions, settings)
        self._graph.load(str(self.folder / GRAPH))
        # Loading takes what the file has been built with, and its own settings for the rest.
        self._graph.expansion_search = max(settings.expansion_search, candidates)
        if len(self._graph) != self.meta.count:
            raise BadInputError(f"has {len(self._graph)} sentences, not {self.meta.count}", where=str(self.folder))
        self._candidates = candidates
        self._ends = np.fromfile(self.folder / ENDS, "<u8")
        self._vectors = os.open(self.folder / VECTORS, os.O_RDONLY)
        self._texts = os.open(self.folder / TEXTS, os.O_RDONLY)

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of its files; it cannot be searched any more."""
        for handle in (self._vectors, self._texts):
            os.close(handle)

    def __len__(self) -> int:
        return self.meta.count

    def text(self, row: int) -> str:
        """A sentence. Raises BadInputError for a row that there is not."""
        if not 0 <= row < self.meta.count:
            raise BadInputError(f"{row} is not from 0 to {self.meta.count - 1}", where="row")
        start = int(self._ends[row - 1]) if row else 0
        data = os.pread(self._texts, int(self._ends[row]) - start, start)
        return data.decode("utf-8", "surrogatepass")

    def vector(self, row: int) -> npt.NDArray[np.float16]:
        """(d,) the vector of a sentence, of length 1."""
        # Read, not mapped: mapped pages would count as the process's memory as long as there is room for them.
        size = self.meta.dimensions * 2
        return np.frombuffer(os.pread(self._vectors, size, row * size), "<f2")

    def nearest(self, vectors: Vectors, k: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Rows and cosines (n, k) of the nearest sentences of each of n vectors (n, d), the nearest first; where there
        are fewer than k, as many.

        Raises BadInputError for vectors of another width, and for k below 1.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.meta.dimensions:
            raise BadInputError(
                f"vectors of shape {vectors.shape} do not fit an index of {self.meta.dimensions} dimensions",
                where=str(self.folder), hint=f"it was built with {self.meta.model}",
            )  # fmt: skip
        if k < 1:
            raise BadInputError(f"{k} is not a number of sentences", where="k")
        k = min(k, self.meta.count)
        unit = of_length_one(vectors)
        rows, scores = np.empty((len(unit), k), np.int64), np.empty((len(unit), k), np.float32)
        wanted = min(max(self._candidates, k), self.meta.count)
        for at, query in enumerate(unit):
            found = np.asarray(self._graph.search(query, wanted).keys, np.int64)
            exact = np.array([self.vector(int(row)) for row in found], np.float32) @ query
            order = np.lexsort((found, -exact))[:k]  # equal ones in the order of the index
            rows[at, : len(order)], scores[at, : len(order)] = found[order], exact[order]
        return rows, np.clip(scores, -1.0, 1.0)

    def exactly(self, vectors: Vectors, k: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """As ``nearest``, looking at every vector."""
        unit, k = of_length_one(vectors), min(k, self.meta.count)
        best_rows, best = np.zeros((len(unit), 0), np.int64), np.zeros((len(unit), 0), np.float32)
        for start, block in self.blocks():
            scores = np.concatenate([best, unit @ block.astype(np.float32).T], axis=1)
            here = np.broadcast_to(np.arange(start, start + len(block)), (len(unit), len(block)))
            rows = np.concatenate([best_rows, here], axis=1)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            best, best_rows = np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
        return best_rows, np.clip(best, -1.0, 1.0)

    def blocks(self, size: int = 1 << 14) -> Iterator[tuple[int, npt.NDArray[np.float16]]]:
        """All vectors in order: the first row and (n, d) of each block."""
        wide = self.meta.dimensions * 2
        for start in range(0, self.meta.count, size):
            count = min(size, self.meta.count - start)
            data = os.pread(self._vectors, count * wide, start * wide)
            yield start, np.frombuffer(data, "<f2").reshape(count, self.meta.dimensions)

    def search(self, queries: Sequence[str], embedder: Embedder, k: int = 10) -> list[list[Hit]]:
        """The nearest sentences of each query; none where the embedder has no vector for it."""
        found = embedder.embed(queries)
        rows, scores = self.nearest(found.vectors, k)
        return [
            [Hit(int(row), float(score), self.text(int(row))) for row, score in zip(rows[at], scores[at], strict=True)]
            if known
            else []
            for at, known in enumerate(found.known)
        ]
