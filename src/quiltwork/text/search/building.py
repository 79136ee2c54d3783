"""Building an index: sentences are embedded piece by piece, written down, and woven into a graph."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from quiltwork.core.errors import BadInputError, QuiltworkError
from quiltwork.core.registry import missing_package
from quiltwork.text.embedder import Embedder, Vectors
from quiltwork.text.search.folder import ENDS, GRAPH, TEXTS, VECTORS, Meta, described, free_place, write_meta

PIECE = 2048
"""Sentences embedded and added at a time."""


@dataclass(frozen=True)
class Graph:
    """How the graph is built and searched (HNSW, Malkov and Yashunin 2018).

    connectivity : neighbours of a sentence (M). expansion_add, expansion_search : candidates that are looked at while
    one is added (efConstruction) and while one is looked for (ef).
    """

    connectivity: int = 16
    expansion_add: int = 96
    expansion_search: int = 192

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 2 <= value <= 4096:
                raise BadInputError(f"{value} is not from 2 to 4096", where=name)


def build(
    folder: Path,
    sentences: Iterable[str],
    embedder: Embedder,
    *,
    model: str,
    graph: Graph | None = None,
    threads: int = 0,
    progress: Callable[[int], None] = lambda count: None,
) -> Meta:
    """Embed sentences and make an index of them; what the model has no vector for is left out and counted.

    model : what a search will find the same embedder by. threads : that weave the graph; 0 for all cores. progress :
    told how many sentences were added since it was last told.

    Raises BadInputError where the folder is in use or there is nothing to index; nothing stays then.
    """

    def pieces() -> Iterator[tuple[Sequence[str], Vectors, int]]:
        left = iter(sentences)
        while piece := list(islice(left, PIECE)):
            found = embedder.embed(piece)
            kept = np.flatnonzero(found.known)
            yield [piece[at] for at in kept], found.vectors[kept], len(piece)

    return weave(folder, pieces(), embedder.dimensions, model=model, graph=graph, threads=threads, progress=progress)


def weave(
    folder: Path,
    pieces: Iterable[tuple[Sequence[str], Vectors, int]],
    dimensions: int,
    *,
    model: str,
    graph: Graph | None = None,
    threads: int = 0,
    progress: Callable[[int], None] = lambda count: None,
) -> Meta:
    """An index of sentences that have their vectors already. pieces : sentences, their vectors (n, dimensions), and how
    many there were before those without a vector were left out. Otherwise as ``build``."""
    settings = graph or Graph()
    woven = new_graph(dimensions, settings)
    count = seen = end = 0
    with _fresh(folder) as fresh:
        with open(fresh / VECTORS, "wb") as rows, open(fresh / TEXTS, "wb") as texts, open(fresh / ENDS, "wb") as ends:
            for sentences, vectors, asked in pieces:
                unit = of_length_one(vectors)
                if len(sentences):
                    woven.add(np.arange(count, count + len(sentences), dtype=np.uint64), unit, threads=threads)
                rows.write(unit.astype("<f2").tobytes())
                encoded = [sentence.encode("utf-8", "surrogatepass") for sentence in sentences]
                texts.writelines(encoded)
                stops = end + np.cumsum(np.array([len(text) for text in encoded], np.uint64), dtype=np.uint64)
                ends.write(stops.astype("<u8").tobytes())
                end = int(stops[-1]) if stops.size else end
                count, seen = count + len(sentences), seen + asked
                progress(asked)
        if not count:
            raise BadInputError("there is no sentence to index", where=str(folder))
        woven.save(str(fresh / GRAPH))
        meta = Meta(
            model, count, dimensions, seen - count, settings.connectivity, settings.expansion_add,
            settings.expansion_search, described(fresh),
        )  # fmt: skip
        write_meta(fresh, meta)
    return meta


def new_graph(dimensions: int, settings: Graph) -> Any:
    """An empty graph of cosines over vectors of eight bits a number. Raises QuiltworkError without usearch."""
    try:
        from usearch.index import Index as UsearchIndex
    except ModuleNotFoundError as error:
        raise missing_package(error, where="search") from error
    return UsearchIndex(
        ndim=dimensions,
        metric="cos",
        dtype="i8",
        connectivity=settings.connectivity,
        expansion_add=settings.expansion_add,
        expansion_search=settings.expansion_search,
    )


def of_length_one(vectors: Vectors) -> Vectors:
    """(n, d) each divided by its length; a row of zeros stays."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0), np.float32)


@contextmanager
def _fresh(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder`` that takes its place at the end; nothing stays after an error."""
    free_place(folder)
    fresh = folder.parent / f".{folder.name}.{secrets.token_hex(6)}"
    try:
        fresh.mkdir(parents=True)
        yield fresh
        if folder.exists():
            folder.rmdir()
        fresh.replace(folder)
    except OSError as error:
        raise QuiltworkError(f"cannot be written: {error.strerror or error}", where=str(folder)) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
