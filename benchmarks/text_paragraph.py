"""Paragraph vectors without anything random: whether they agree with sampled ones on BIOSSES, and what they cost.

Two word2vecs with hierarchical softmax are trained (CBOW and skip-gram, one pass over the corpus). Over both, vectors
are inferred in all ways, from word ids, by one thread. ``cbow`` inference is claimed of the one trained by CBOW, the
pass of ``sg`` of the one trained by skip-gram, as they belong together. Published closed forms are of ``sg`` inference
over a CBOW word2vec, so that has a row besides. CTR's figures stand beside: choices were made on those.

A mean of r over seeds is less than the r of the mean score, by what sampling adds of noise; both are in the table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from quiltwork.core.bench import Claim, Context, Outcome, at_least, at_most
from quiltwork.core.errors import NotFoundError

if TYPE_CHECKING:
    from quiltwork.core.servable import Json
    from quiltwork.text.evaluate.gold import GoldSet
    from quiltwork.text.paragraph.huffman import HuffmanVectors
    from quiltwork.text.paragraph.inference import Inference

CLOSED_R = "text.paragraph_closed_r"
SAME, FULL_R = "text.paragraph_closed_same", "text.paragraph_full_r"
SPEED, COMPILED = "text.paragraph_closed_speed", "text.paragraph_closed_speed_compiled"
CLAIMS = (
    Claim(name=CLOSED_R, room="text", title="1 + |r closed form - mean r of sampled cbow inference| on BIOSSES",
          reach=at_most(1.005), ratio="ours/baseline", unit="x", parity=False),
    Claim(name=SAME, room="text", title="different answers of the closed form in 10 processes, orders and seeds",
          reach=at_most(1.0), ratio="ours/baseline", unit="answers", parity=True),
    Claim(name=SPEED, room="text", title="closed form vs sampled cbow inference as gensim does it, from word ids",
          reach=at_least(50), ratio="baseline/ours", unit="s per sentence", parity=False),
    Claim(name=COMPILED, room="text", title="closed form vs the same sampling loop compiled by numba, from word ids",
          reach=at_least(50), ratio="baseline/ours", unit="s per sentence", parity=False),
    Claim(name=FULL_R, room="text",
          title="1 + |r full-window sg pass, weighted - mean r of 10 seeds of sampled sg| on BIOSSES",
          reach=at_most(1.005), ratio="ours/baseline", unit="x", parity=False),
)  # fmt: skip
PROCESSES = 10
EPOCHS = (5, 50, 300)
"""Of Doc2Vec's inference: a row each."""
DOC2VEC_CORPUS = ("smallbio", "coronaml")


def run(context: Context) -> Mapping[str, Outcome]:
    """Train, judge, ask in other processes, and take the time."""
    from quiltwork.text.evaluate.gold import read_biosses, read_ctr
    from quiltwork.text.files import Folder
    from quiltwork.text.paragraph.folder import load
    from work.paragraph_judged import judged

    if context.data is None:
        raise NotFoundError("needs the corpora and gold sets", where="text", hint="set QUILTWORK_DATA to their folder")
    golds = (read_ctr(context.data / "text"), read_biosses(context.data / "text"))
    folders, peers = _trained(context, context.data, golds)
    models = {method: load(Folder(folder)).model for method, folder in folders.items()}
    rows: list[Mapping[str, Json]] = []
    r: dict[tuple[str, str, str], float] = {}
    for method, model in models.items():
        for predicts in ("cbow", "sg"):
            context.progress(f"{predicts} inference over {method}")
            more, rs = judged(method, model, predicts, golds)
            rows += more
            r |= {(method, predicts, how): found[golds[-1].name] for how, found in rs.items()}
    details: dict[str, Json] = {
        "words": {method: len(model.words) for method, model in models.items()},
        "closed form's loss in sg, over skip-gram": round(
            r["skip-gram", "sg", "sampled"] - r["skip-gram", "sg", "closed"], 4
        ),
    }
    rows.append(
        {
            "table": "closed form of sg over a CBOW word2vec, on BIOSSES",
            "|r closed form - mean r sampled|": round(abs(r["cbow", "sg", "closed"] - r["cbow", "sg", "sampled"]), 4),
        }
    )

    def apart(method: str, predicts: str, how: str) -> Outcome:
        difference = abs(r[method, predicts, how] - r[method, predicts, "sampled"])
        return Outcome([1 + difference], [1.0], details=details, rows=[*rows, *peers])

    answers = _answers(folders["cbow"], golds, context)
    ours, gensim, compiled = _timed(models["cbow"], golds, context)
    return {
        CLOSED_R: apart("cbow", "cbow", "closed"),
        SAME: Outcome([float(len(answers))], [1.0], details={"processes": PROCESSES}),
        SPEED: Outcome(ours, gensim),
        COMPILED: Outcome(ours, compiled),
        FULL_R: apart("skip-gram", "sg", "weighted"),
    }


def _trained(
    context: Context, data: Path, golds: tuple[GoldSet, ...]
) -> tuple[dict[str, Path], list[Mapping[str, Json]]]:
    """Folders of the word2vecs by method, and rows of Doc2Vec."""
    from work.paragraph_judged import agreement, cosines, cut, row
    from work.paragraph_models import METHODS, corpus, doc2vec, train
    from work.paragraph_models import cut as cut_corpus

    tokens, files = context.scratch / "tokens", corpus(data, context.quick)
    less = [file for file in files if any(name in file for name in DOC2VEC_CORPUS)]
    asked = cut(golds)
    context.progress("cutting the corpus into tokens")
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(METHODS))) as pool:
        for each in [pool.submit(cut_corpus, files, tokens), pool.submit(cut_corpus, less, tokens)]:
            each.result()
        context.progress("training two word2vecs and two Doc2Vecs")
        made = {m: pool.submit(train, m, files, tokens, context.scratch / m, context.seed) for m in METHODS}
        peers = {memory: pool.submit(doc2vec, memory, less, tokens, asked, EPOCHS, context.seed)
                 for memory in (True, False)}  # fmt: skip
        folders = {method: Path(each.result()) for method, each in made.items()}
        rows: list[Mapping[str, Json]] = []
        for memory, each in peers.items():
            for epochs, vectors in each.result().items():
                rs = agreement(cosines(vectors, golds), golds)
                rows.append(row(f"Doc2Vec {'DM' if memory else 'DBOW'}", f"{epochs} epochs", "", rs))
    return folders, rows


def _answers(folder: Path, golds: tuple[GoldSet, ...], context: Context) -> set[str]:
    """Digests of the closed form's vectors of all sentences, each from a process of its own, in another order, with
    another seed and another order of hashes."""
    from quiltwork.text.paragraph.inference import Inference
    from work.paragraph_judged import sentences_of

    sentences = context.scratch / "sentences.json"
    sentences.write_text(json.dumps(sentences_of(golds)), encoding="utf-8")
    way = {name: value for name, value in asdict(Inference("cbow", "closed")).items() if name != "seed"}
    found = set()
    for number in range(PROCESSES):
        context.progress(f"process {number + 1} of {PROCESSES}")
        command = [
            sys.executable,
            "-m",
            "work.paragraph_again",
            str(folder),
            json.dumps(way),
            str(sentences),
            str(number),
        ]
        environment = {
            **os.environ,
            "PYTHONHASHSEED": str(number),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found.add(done.stdout.strip())
    return found


def _timed(
    model: HuffmanVectors, golds: tuple[GoldSet, ...], context: Context
) -> tuple[list[float], list[float], list[float]]:
    """Seconds per sentence of the closed form, of Python's loop and of the compiled one, over the same word ids."""
    from quiltwork.text.paragraph.inference import Inference, infer, texts
    from work.paragraph_judged import cut
    from work.sampled_loops import SampledLoops

    found, loops = texts(model, cut(golds)), SampledLoops(model, seed=context.seed)
    sentences = [found.words[a:b].tolist() for a, b in zip(found.ends[:-1], found.ends[1:], strict=True)]
    # Each arm goes over all sentences this often, so that it takes long enough for the clock.
    times = {"closed": 200, "gensim": 1, "compiled": 5}

    def inferred(way: Inference, turns: int) -> None:
        for _ in range(turns):
            infer(model, found, way)

    arms: dict[str, Callable[[], object]] = {
        "closed": lambda: inferred(Inference("cbow", "closed"), times["closed"]),
        "gensim": lambda: [loops.cbow(sentence) for sentence in sentences],
        "compiled": lambda: inferred(Inference("cbow", "sampled"), times["compiled"]),
    }
    model.first_gradients  # noqa: B018 - made once, when a model is loaded
    samples = context.interleave(arms, repeats=3 if context.quick else 15, warmup=2)
    closed, gensim, compiled = (
        [sample.wall_s / times[name] / len(sentences) for sample in samples[name]] for name in arms
    )
    return closed, gensim, compiled
