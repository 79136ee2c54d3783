"""Paragraph vectors without anything random: whether they agree with sampled ones on BIOSSES, and what they cost.

Two word2vecs with hierarchical softmax are trained (CBOW and skip-gram, one pass over the corpus). Everything is then
inferred from word ids by one thread, over both; what is claimed is of the word2vec that was trained as the paragraph's
vector is inferred. CTR's figures stand beside as those on which choices were made.
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
from typing import TYPE_CHECKING, Any

import numpy as np

from quiltwork.core.bench import Claim, Context, Outcome, at_least, at_most
from quiltwork.core.errors import NotFoundError

if TYPE_CHECKING:
    from quiltwork.core.servable import Json
    from quiltwork.text.evaluate.gold import GoldSet
    from quiltwork.text.paragraph.huffman import HuffmanVectors
    from quiltwork.text.paragraph.inference import Inference, Texts

CLOSED_R, SAME = "text.paragraph_closed_r", "text.paragraph_closed_same"
SPEED, COMPILED = "text.paragraph_closed_speed", "text.paragraph_closed_speed_compiled"
FULL_R = "text.paragraph_full_r"
CLAIMS = (
    Claim(name=CLOSED_R, room="text", title="1 + |r closed form - mean r of sampled cbow, 10 seeds| on BIOSSES",
          reach=at_most(1.005), ratio="ours/baseline", unit="x", parity=False),
    Claim(name=SAME, room="text", title="different answers of the closed form in 10 processes, orders and seeds",
          reach=at_most(1.0), ratio="ours/baseline", unit="answers", parity=True),
    Claim(name=SPEED, room="text", title="closed form vs sampled cbow inference as gensim does it, from word ids",
          reach=at_least(50), ratio="baseline/ours", unit="s per sentence", parity=False),
    Claim(name=COMPILED, room="text", title="closed form vs the same sampling loop compiled by numba, from word ids",
          reach=at_least(50), ratio="baseline/ours", unit="s per sentence", parity=False),
    Claim(name=FULL_R, room="text", title="1 + |r full-window sg pass - mean r of sampled sg, 10 seeds| on BIOSSES",
          reach=at_most(1.005), ratio="ours/baseline", unit="x", parity=False),
)  # fmt: skip
SEEDS, PROCESSES = 10, 10
EPOCHS = (5, 50, 300)
"""Of Doc2Vec's inference: a row each."""
DOC2VEC_CORPUS = ("smallbio", "coronaml")


def run(context: Context) -> Mapping[str, Outcome]:
    """Train, judge, ask in other processes, and take the time."""
    from quiltwork.text.evaluate.gold import read_biosses, read_ctr
    from quiltwork.text.files import Folder
    from quiltwork.text.paragraph.folder import load

    if context.data is None:
        raise NotFoundError("needs the corpora and gold sets", where="text", hint="set QUILTWORK_DATA to their folder")
    golds = (read_ctr(context.data / "text"), read_biosses(context.data / "text"))
    folders, peers = _trained(context, context.data, golds)
    models = {method: load(Folder(folder)).model for method, folder in folders.items()}
    rows, figures = _judged(models, golds, context)
    details: dict[str, Json] = {"words": {method: len(model.words) for method, model in models.items()}}
    closed, sampled = figures["cbow", "closed", "cbow"], figures["cbow", "sampled", "cbow"]
    full, drawn = figures["skip-gram", "full", "sg"], figures["skip-gram", "sampled", "sg"]
    loss = {"closed form's loss in sg": round(drawn - figures["skip-gram", "closed", "sg"], 4)}
    answers = _answers(folders["cbow"], golds, context)
    ours, gensim, compiled = _timed(models["cbow"], golds, context)
    return {
        CLOSED_R: Outcome([1 + abs(closed - sampled)], [1.0], details=details, rows=[*rows, *peers]),
        SAME: Outcome([float(len(answers))], [1.0], details={"processes": PROCESSES}),
        SPEED: Outcome(ours, gensim, details=details),
        COMPILED: Outcome(ours, compiled, details=details),
        FULL_R: Outcome([1 + abs(full - drawn)], [1.0], details={**details, **loss}, rows=rows),
    }


def _trained(
    context: Context, data: Path, golds: tuple[GoldSet, ...]
) -> tuple[dict[str, Path], list[Mapping[str, Json]]]:
    """Folders of the word2vecs by method, and rows of Doc2Vec."""
    from work.paragraph_models import METHODS, corpus, cut, doc2vec, train

    tokens, files = context.scratch / "tokens", corpus(data, context.quick)
    less = [file for file in files if any(name in file for name in DOC2VEC_CORPUS)]
    asked = _tokens([sentence for gold in golds for pair in gold.pairs for sentence in pair])
    context.progress("cutting the corpus into tokens")
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(METHODS))) as pool:
        for each in [pool.submit(cut, files, tokens), pool.submit(cut, less, tokens)]:
            each.result()
        context.progress("training two word2vecs and two Doc2Vecs")
        made = {m: pool.submit(train, m, files, tokens, context.scratch / m, context.seed) for m in METHODS}
        peers = {memory: pool.submit(doc2vec, memory, less, tokens, asked, EPOCHS, context.seed)
                 for memory in (True, False)}  # fmt: skip
        folders = {method: Path(each.result()) for method, each in made.items()}
        rows: list[Mapping[str, Json]] = []
        for memory, each in peers.items():
            for epochs, vectors in each.result().items():
                row: dict[str, Json] = {"word2vec": f"Doc2Vec {'DM' if memory else 'DBOW'}", "how": f"{epochs} epochs"}
                rows.append({**row, **_both(vectors, golds)})
    return folders, rows


def _tokens(sentences: list[str]) -> list[tuple[str, ...]]:
    from quiltwork.text.token_corpus import word_tokens

    return [word_tokens(sentence) for sentence in sentences]


def _both(vectors: Any, golds: tuple[GoldSet, ...]) -> dict[str, Json]:
    """r on each gold set, from the vectors of all their sentences in order."""
    from quiltwork.text.evaluate.correlation import pearson

    found: dict[str, Json] = {}
    for gold in golds:
        own, vectors = vectors[: 2 * len(gold)].astype(np.float64), vectors[2 * len(gold) :]
        unit = own / np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-30)
        found[f"r {gold.name}"] = round(pearson((unit[::2] * unit[1::2]).sum(axis=1), gold.gold), 4)
    return found


def _texts(model: HuffmanVectors, golds: tuple[GoldSet, ...]) -> Texts:
    from quiltwork.text.paragraph.inference import texts

    return texts(model, _tokens([sentence for gold in golds for pair in gold.pairs for sentence in pair]))


def _judged(
    models: Mapping[str, HuffmanVectors], golds: tuple[GoldSet, ...], context: Context
) -> tuple[list[Mapping[str, Json]], dict[tuple[str, str, str], float]]:
    """A row for every way over every word2vec, and r on BIOSSES by word2vec, way and what is predicted."""
    from quiltwork.text.paragraph.inference import Inference, infer

    rows: list[Mapping[str, Json]] = []
    figures: dict[tuple[str, str, str], float] = {}
    for method, model in models.items():
        found = _texts(model, golds)
        for predicts in ("cbow", "sg"):
            for how in ("sampled", "full", "weighted", "closed"):
                context.progress(f"{how} {predicts} over {method}")
                seeds = range(SEEDS if how == "sampled" else 1)
                ways = [Inference(predicts, how, seed=context.seed + seed) for seed in seeds]  # type: ignore[arg-type]
                taken = [_both(infer(model, found, way), golds) for way in ways]
                mean = {name: float(np.mean([r[name] for r in taken])) for name in taken[0]}  # type: ignore[arg-type]
                spread = {f"sd {name[2:]}": round(float(np.std([r[name] for r in taken])), 4) for name in mean}  # type: ignore[arg-type]
                rows.append({"word2vec": method, "how": how, "predicts": predicts,
                             **{name: round(r, 4) for name, r in mean.items()}, **spread})  # fmt: skip
                figures[method, how, predicts] = mean[f"r {golds[-1].name}"]
    return rows, figures


def _answers(folder: Path, golds: tuple[GoldSet, ...], context: Context) -> set[str]:
    """Digests of the closed form's vectors of all sentences, each from a process of its own, in another order, with
    another seed and another order of hashes."""
    from quiltwork.text.paragraph.inference import Inference

    sentences = context.scratch / "sentences.json"
    asked = [sentence for gold in golds for pair in gold.pairs for sentence in pair]
    sentences.write_text(json.dumps(asked), encoding="utf-8")
    way = {name: value for name, value in asdict(Inference("cbow", "closed")).items() if name != "seed"}
    script = Path(__file__).parent / "work" / "paragraph_again.py"
    found = set()
    for number in range(PROCESSES):
        context.progress(f"process {number + 1} of {PROCESSES}")
        command = [sys.executable, str(script), str(folder), json.dumps(way), str(sentences), str(number)]
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
    from quiltwork.text.paragraph.inference import Inference, infer
    from work.sampled_loops import SampledLoops

    found, loops = _texts(model, golds), SampledLoops(model, seed=context.seed)
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
