"""A million sentences to search in: real ones and two-sentence windows of the corpus, and more that are near them."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quiltwork.core.progress import Say
from quiltwork.text.embedder import Embedder, Vectors

CORPORA = ("elife.ccby", "evinf.ccby", "smallbio", "coronaml")
KEEP = "QUILTWORK_BENCH_WORK"
"""Environment variable: a folder where encoded sentences and the index are kept between runs; they take longest."""
SHORTEST, LONGEST = 30, 250
"""Characters of a sentence that is taken."""
APART = 0.7
"""Length of the noise that is added to a real sentence's vector of length 1. Two made of one sentence have a cosine of
about 0.67: of real sentences of the corpus, the median cosine with the nearest of 800 others is 0.63."""


def texts(data: Path, count: int, queries: int, seed: int) -> tuple[list[str], list[str]]:
    """``count`` texts, four fifths sentences and the others windows of two; and ``queries`` other sentences."""
    from quiltwork.text.corpus import read_corpus

    files = [data / "text" / "corpus" / f"{name}.txt.xz" for name in CORPORA]
    singles, windows = [], []
    for document in read_corpus(files):
        fit = [sentence for sentence in document.sentences if SHORTEST <= len(sentence) <= LONGEST]
        singles += fit
        windows += [f"{a} {b}" for a, b in pairwise(fit)]
    draw = random.Random(seed)
    singles = draw.sample(list(dict.fromkeys(singles)), count - count // 5 + queries)
    asked, kept = singles[:queries], singles[queries:]
    return kept + draw.sample(windows, count // 5), asked


def kept(scratch: Path) -> Path:
    """The folder for what takes long: it outlasts the run where there is one for that."""
    folder = Path(os.environ.get(KEEP) or scratch)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def encoded(sentences: Sequence[str], embedder: Embedder, scratch: Path, say: Say) -> Vectors:
    """Vectors of sentences (n, d), kept for the next run where there is a folder for that."""
    folder = kept(scratch)
    digest = hashlib.blake2b("\0".join([embedder.name, *sentences]).encode(), digest_size=12).hexdigest()
    path = folder / f"sentences-{digest}.npy"
    if not path.exists():
        made = []
        for start in range(0, len(sentences), 2048):
            say(f"encoding sentence {start + 1} of {len(sentences)}")
            made.append(embedder.embed(sentences[start : start + 2048]).vectors)
        np.save(path.with_suffix(".part.npy"), np.concatenate(made))
        path.with_suffix(".part.npy").replace(path)
    return np.asarray(np.load(path), np.float32)


def near(vectors: Vectors, texts: Sequence[str], total: int, seed: int) -> Iterator[tuple[list[str], Vectors, int]]:
    """The real ones, then as many resampled ones as are wanted in all, in pieces; what is resampled says so."""
    yield list(texts), vectors, len(texts)
    draw = np.random.default_rng(seed)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    left, width = total - len(texts), vectors.shape[1]
    while left > 0:
        size = min(left, 20_000)
        rows = draw.integers(0, len(unit), size)
        noise = draw.standard_normal((size, width), np.float32) * np.float32(APART / width**0.5)
        yield [f"near {texts[row]}" for row in rows], unit[rows] + noise, size
        left -= size


def overlap(found: npt.NDArray[np.int64], exact: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """(n,) the part of each exact row of k that was found."""
    return np.array([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), exact.tolist(), strict=True)])
