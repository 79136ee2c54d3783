"""How well vectors of paragraphs agree with gold sets, for each way to infer them over each word2vec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from quiltwork.text.evaluate.correlation import pearson
from quiltwork.text.evaluate.gold import GoldSet
from quiltwork.text.paragraph.inference import Inference, infer, texts
from quiltwork.text.token_corpus import word_tokens

if TYPE_CHECKING:
    from quiltwork.core.servable import Json
    from quiltwork.text.paragraph.huffman import HuffmanVectors

SEEDS = {"sg": 10, "cbow": 100}
"""Over which sampled inference is averaged: ``cbow``'s r varies three times as much with the seed."""
Rs = dict[str, float]
"""r by the name of the gold set."""


def sentences_of(golds: Sequence[GoldSet]) -> list[str]:
    """All sentences in order: the first set's, two a pair, then the next one's."""
    return [sentence for gold in golds for pair in gold.pairs for sentence in pair]


def cut(golds: Sequence[GoldSet]) -> list[tuple[str, ...]]:
    """Their tokens."""
    return [word_tokens(sentence) for sentence in sentences_of(golds)]


def cosines(vectors: npt.NDArray[np.float32], golds: Sequence[GoldSet]) -> dict[str, npt.NDArray[np.float64]]:
    """The cosine of each pair, by set, from the vectors of all sentences in order."""
    found, left = {}, vectors.astype(np.float64)
    for gold in golds:
        own, left = left[: 2 * len(gold)], left[2 * len(gold) :]
        unit = own / np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-30)
        found[gold.name] = (unit[::2] * unit[1::2]).sum(axis=1)
    return found


def agreement(scores: Mapping[str, npt.NDArray[np.float64]], golds: Sequence[GoldSet]) -> Rs:
    """r on each set."""
    return {gold.name: pearson(scores[gold.name], gold.gold) for gold in golds}


def row(word2vec: str, how: str, predicts: str, rs: Rs, **more: Json) -> dict[str, Json]:
    """A line of the table."""
    told: dict[str, Json] = {f"r {name}": round(r, 4) for name, r in rs.items()}
    return {"model": word2vec, "how": how, "predicts": predicts, **told, **more}


def judged(
    name: str, model: HuffmanVectors, predicts: str, golds: Sequence[GoldSet]
) -> tuple[list[dict[str, Json]], dict[str, Rs]]:
    """Rows for every way to infer, and r by way; that of ``sampled`` is the mean over seeds."""
    found = texts(model, cut(golds))

    def scores(how: str, seed: int = 0) -> dict[str, npt.NDArray[np.float64]]:
        way: Any = {"predicts": predicts, "how": how, "seed": seed}
        return cosines(infer(model, found, Inference(**way)), golds)

    drawn = [scores("sampled", seed) for seed in range(SEEDS[predicts])]
    each = [agreement(one, golds) for one in drawn]
    mean = {gold.name: float(np.mean([rs[gold.name] for rs in each])) for gold in golds}
    spread: dict[str, Json] = {f"sd {g.name}": round(float(np.std([rs[g.name] for rs in each])), 4) for g in golds}
    together = {g.name: np.asarray(np.mean([one[g.name] for one in drawn], axis=0)) for g in golds}
    rs = {"sampled": mean, **{how: agreement(scores(how), golds) for how in ("full", "weighted", "closed")}}
    rows = [row(name, "sampled: mean r", predicts, mean, **spread, seeds=len(drawn))]
    rows.append(row(name, "sampled: r of the mean score", predicts, agreement(together, golds), seeds=len(drawn)))
    rows += [row(name, how, predicts, rs[how]) for how in ("full", "weighted", "closed")]
    return rows, rs
