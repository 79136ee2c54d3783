"""How the choices of ``text_choices.json`` are made: what each recipe reaches on CTR, and only there.

    python -m work.text_choose FOLDER...      (in benchmarks; folders of trained word vectors; needs $QUILTWORK_DATA)

Prints Pearson's r for each way to pool and each fusion, means over the folders, and what a regression on the two scores
of the last fusion reaches with every pair left out once. Nothing here reads BIOSSES.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

REMOVED = (1, 2, 3, 5, 7, 10)
RECIPES: dict[str, Any] = {
    "words + vectors": {"mean": ["lexical", "vectors"]},
    "words + tf-idf + vectors": {"mean": ["lexical", "tfidf", "vectors"]},
    "words + vectors + encoder": {"mean": ["lexical", "vectors", "encoder"]},
    "all four": {"mean": ["lexical", "tfidf", "vectors", "encoder"]},
    "(words + vectors) + encoder": {"mean": [{"mean": ["lexical", "vectors"]}, "encoder"]},
    "(words + tf-idf + vectors) + encoder": {"mean": [{"mean": ["lexical", "tfidf", "vectors"]}, "encoder"]},
}


def main(folders: Sequence[Path], data: Path) -> None:
    """Print the table."""
    from quiltwork.text.evaluate.correlation import pearson
    from quiltwork.text.evaluate.gold import read_ctr
    from quiltwork.text.evaluate.protocols import held_out
    from work.text_fusion import fixed_scorers, frozen, mean_of

    gold = read_ctr(data / "text")
    fixed = {name: scorer(gold.pairs) for name, scorer in fixed_scorers(frozen()[0], data).items()}
    for name, scores in fixed.items():
        print(f"{name}: {pearson(scores, gold.gold):.4f}")
    for way, each in pooled(folders, gold.pairs).items():
        told = [f"alone {mean(pearson(v, gold.gold) for v in each):.4f}"]
        for recipe, made in RECIPES.items():
            scores = [mean_of(made, {**fixed, "vectors": v}) for v in each]
            told.append(f"{recipe} {mean(pearson(s, gold.gold) for s in scores):.4f}")
        own = [mean_of(RECIPES["words + tf-idf + vectors"], {**fixed, "vectors": v}) for v in each]
        ratings = [
            held_out(("own", "encoder"), np.stack([s, fixed["encoder"]], axis=1), gold.gold, np.arange(len(gold)), 0.0)
            for s in own
        ]
        told.append(f"regression {mean(pearson(r, gold.gold) for r in ratings):.4f}")
        print(f"{way}: {'; '.join(told)}", flush=True)


def pooled(folders: Sequence[Path], pairs: Any) -> dict[str, list[Any]]:
    """By pooling, each folder's cosines (n,)."""
    from quiltwork.text.files import Folder
    from quiltwork.text.scorer import Cosine
    from quiltwork.text.vectors.model import WordVectors
    from quiltwork.text.vectors.pooling import POOLINGS, PooledVectors
    from work.text_fusion import pooling

    ways: dict[str, Any] = dict(POOLINGS)
    for k in REMOVED:
        ways[f"abtt {k}"] = pooling({"name": "abtt", "with": {"removed": k}})
    found: dict[str, list[Any]] = {}
    for folder in folders:
        vectors = WordVectors.load(Folder(folder))
        for name, way in ways.items():
            found.setdefault(name, []).append(np.nan_to_num(Cosine(PooledVectors(name, vectors, way))(pairs)))
    return found


def mean(values: Iterable[float]) -> float:
    """Over folders."""
    return float(np.mean(list(values)))


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]], Path(os.environ["QUILTWORK_DATA"]))
