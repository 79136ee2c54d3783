"""How the choices of ``text_choices.json`` are made: what each recipe reaches on CTR, and only there.

    python -m work.text_choose FOLDER...      (in benchmarks; folders of trained word vectors; needs $QUILTWORK_DATA)

Prints Pearson's r for each way to pool and each fusion, and what a regression on the same scores reaches with every
pair left out once. Nothing here reads BIOSSES.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

REMOVED = (1, 2, 3, 5)
WORDS = ("liblock", "lexical")


def scores(folders: Sequence[Path], data: Path) -> tuple[Any, dict[str, Any], dict[str, list[Any]]]:
    """CTR; what needs no training; by pooling, each folder's cosines."""
    from quiltwork.text.evaluate.candidates import words
    from quiltwork.text.evaluate.gold import read_ctr
    from quiltwork.text.evaluate.models import PACKAGED, open_model
    from quiltwork.text.files import Folder
    from quiltwork.text.scorer import Cosine
    from quiltwork.text.vectors.model import WordVectors
    from quiltwork.text.vectors.pooling import POOLINGS, PooledVectors
    from work.text_fusion import pooling

    gold = read_ctr(data / "text")
    fixed = {name: words(name)(gold.pairs) for name in WORDS}
    fixed["encoder"] = Cosine(open_model(PACKAGED))(gold.pairs)
    ways: dict[str, Any] = dict(POOLINGS)
    for k in REMOVED:
        for common in ("words", "idf"):
            ways[f"abtt {common} {k}"] = pooling({"name": "abtt", "with": {"common": common, "removed": k}})
    found: dict[str, list[Any]] = {}
    for folder in folders:
        vectors = WordVectors.load(Folder(folder))
        for name, way in ways.items():
            found.setdefault(name, []).append(np.nan_to_num(Cosine(PooledVectors(name, vectors, way))(gold.pairs)))
    return gold, fixed, found


def main(folders: Sequence[Path], data: Path) -> None:
    """Print the table."""
    from quiltwork.text.evaluate.correlation import pearson
    from quiltwork.text.evaluate.protocols import held_out

    gold, fixed, found = scores(folders, data)
    apart = np.arange(len(gold))
    for name in fixed:
        print(f"{name:12} {pearson(fixed[name], gold.gold):.4f}")
    for way, each in found.items():
        told = [f"alone {mean(pearson(v, gold.gold) for v in each):.4f}  spread {np.std(each):.3f}"]
        for words in WORDS:
            own = mean(pearson(fixed[words] + v, gold.gold) for v in each)
            both = mean(pearson(fixed[words] + v + fixed["encoder"], gold.gold) for v in each)
            features = [np.stack([fixed[words], v, fixed["encoder"]], axis=1) for v in each]
            left_out = mean(pearson(held_out("wve", x, gold.gold, apart, 0.0), gold.gold) for x in features)
            told.append(f"{words}: + vectors {own:.4f}, + encoder {both:.4f}, regression {left_out:.4f}")
        print(f"{way:12} {'  '.join(told)}", flush=True)


def mean(values: Any) -> float:
    """Over seeds."""
    return float(np.mean(list(values)))


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]], Path(os.environ["QUILTWORK_DATA"]))
