"""A model of sentences that needs no training: a word is a row of a table by its hash. And zoos of such models."""

from __future__ import annotations

import json
import threading
import zlib
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from quiltwork.core.batcher import BatchLimits
from quiltwork.core.names import ModelRef
from quiltwork.text.embedder import Embedded
from quiltwork.text.files import read_json
from quiltwork.text.hosts import Hosts
from quiltwork.text.serve import LIMITS, TextModels
from quiltwork.zoo import Zoo

FAMILY = "tiny-words"
ROWS, WIDTH, LONGEST = 64, 8, 20
CONFIG = {"model_type": FAMILY, "longest": LONGEST, "matryoshka_dimensions": [4]}


class TinyWords:
    """The sum of a sentence's words; a word that begins with ``x`` is not known to it."""

    def __init__(self, files):
        self.name = files.where.rsplit("/")[-1]
        self.table = files.tensors("model.safetensors")["table"]
        self.longest = read_json(files, "config.json")["longest"]
        self.dimensions = self.table.shape[1]
        self.asked = []
        self.gate, self.reached = threading.Event(), threading.Event()
        self.gate.set()

    def embed(self, sentences):
        self.asked.append(tuple(sentences))
        self.reached.set()
        self.gate.wait(20)
        cut = [sentence.lower().split() for sentence in sentences]
        taken = [[word for word in words[: self.longest] if not word.startswith("x")] for words in cut]
        rows = [[zlib.crc32(word.encode("utf-8", "replace")) % len(self.table) for word in words] for words in taken]
        vectors = [self.table[row].sum(axis=0) if row else np.zeros(self.dimensions) for row in rows]
        return Embedded(
            np.array(vectors, np.float32).reshape(len(sentences), self.dimensions),
            np.array([bool(row) for row in rows]),
            np.array([len(words) for words in cut], np.int64),
            np.array([len(row) for row in rows], np.int64),
            np.array([len(words) > self.longest for words in cut]),
        )


class Outspoken:
    """Opinions that can be told from each other: a rating is the score fourfold, 'not' makes opposite."""

    def ratings(self, scorer, scores):
        return [
            None if np.isnan(s) else {"value": 4 * float(s), "low": 0.0, "high": 4.0, "coverage": 0.9} for s in scores
        ]

    def polarities(self, pairs):
        return [
            {"kind": "opposite" if ("not" in a) != ("not" in b) else "same", "overlap": 1.0, "evidence": []}
            for a, b in pairs
        ]

    def explanations(self, pairs):
        return [{"aligned": sorted(set(a.split()) & set(b.split()))} for a, b in pairs]


def tiny_folder(path: Path, *, seed: int = 0, rows: int = ROWS, **config) -> Path:
    """A model's folder."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(CONFIG | config))
    table = np.random.default_rng(seed).standard_normal((rows, WIDTH)).astype(np.float32)
    save_file({"table": table}, path / "model.safetensors")
    return path


def tiny_zoo(path: Path, *refs: ModelRef) -> Path:
    """A zoo of such models, each with a table of its own."""
    with Zoo(path / "zoo") as zoo:
        for seed, ref in enumerate(refs):
            zoo.add(tiny_folder(path / f"{ref.tenant}-{ref.name}", seed=seed), name=ref.name, tenant=ref.tenant)
    return path / "zoo"


def tiny_host(zoo: Path, *, memory_bytes=None, aliases=None, limits: BatchLimits = LIMITS, load=TinyWords, **more):
    """A Servable of the models of a zoo, none of them loaded."""
    hosts = Hosts(lambda: Zoo(zoo), load, memory_bytes, aliases or {})
    return TextModels(hosts, lambda model: model.family == FAMILY, Outspoken(), limits=limits, **more)
