"""Word vectors trained on the corpora here, alone: r on BIOSSES, and what more text is worth.

fastText, skip-gram, 150 dimensions, three passes; three seeds, which draw the documents and everything random. The
pooling and what it takes out were chosen on CTR, before BIOSSES was looked at. Rows: the learning curve over a
sixteenth, a quarter and all of the corpus, and the paper's poolings on all of it. A pair of which the model has nothing
to say counts as 0.

Training all nine models takes more than an hour of one core. With QUILTWORK_TRAINED set to a folder, they are kept
there and found again by the next run.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from quiltwork.core.bench import Claim, Context, Outcome, at_least
from quiltwork.core.errors import NotFoundError
from work.text_trained import SETTINGS, SIZES, kept, trained

if TYPE_CHECKING:
    from quiltwork.core.servable import Json
    from quiltwork.text.evaluate.gold import GoldSet
    from quiltwork.text.vectors.model import WordVectors

NAME = "text.own_vectors"
CLAIMS = (
    Claim(name=NAME, room="text", title="r on BIOSSES: vectors trained here, alone, mean of 3 seeds (prototype .836)",
          reach=at_least(0.83), ratio="ours/baseline", unit="r", parity=False),
)  # fmt: skip
SEEDS = (0, 1, 2)
CHOSEN = "abtt"
"""On CTR."""
QUICK: dict[str, Json] = {"dimensions": 50, "epochs": 1}
QUICK_CORPUS = ("coronaml",)
Rows = list[Mapping[str, "Json"]]


def run(context: Context) -> Mapping[str, Outcome]:
    """Train what is not there, then ask every model about both sets of pairs."""
    from quiltwork.text.evaluate.gold import read_biosses, read_ctr
    from quiltwork.text.files import Folder
    from quiltwork.text.vectors.model import WordVectors
    from quiltwork.text.vectors.pooling import POOLINGS

    if context.data is None:
        raise NotFoundError("needs the corpora and gold sets", where="text", hint="set QUILTWORK_DATA to their folder")
    golds = (read_biosses(context.data / "text"), read_ctr(context.data / "text"))
    sizes, seeds = (("1_4", "full"), SEEDS[:1]) if context.quick else (tuple(SIZES), SEEDS)
    context.progress("training what is not there yet")
    wanted = [(size, seed) for size in sizes for seed in seeds]
    # A quick run's models are not those that are kept.
    root = context.scratch / "trained" if context.quick else kept(context.scratch)
    models = trained(context.data, root, wanted, *((QUICK, QUICK_CORPUS) if context.quick else ()))
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for (size, seed), folder in models.items():
        context.progress(f"{size} of the corpus, seed {seed}")
        vectors = WordVectors.load(Folder(folder))
        for pooling in POOLINGS if size == sizes[-1] else (CHOSEN,):
            figures = tuple(correlation(vectors, pooling, gold) for gold in golds)
            found.setdefault((size, pooling), []).append((figures[0], figures[1]))
    rows = [row for size in sizes for row in _rows("corpus", size, found[size, CHOSEN], seeds)]
    for pooling in POOLINGS:
        rows += _rows("pooling", pooling, found[sizes[-1], pooling], seeds)
    details: dict[str, Json] = {**SETTINGS, **(QUICK if context.quick else {}), "pooling": CHOSEN, "seeds": list(seeds)}
    ours = fmean(biosses for biosses, _ in found[sizes[-1], CHOSEN])
    return {NAME: Outcome([ours], [1.0], details=details, rows=rows)}


def correlation(vectors: WordVectors, pooling: str, gold: GoldSet) -> float:
    """r of the cosines with what people say."""
    from quiltwork.text.evaluate.correlation import pearson
    from quiltwork.text.scorer import Cosine
    from quiltwork.text.vectors.pooling import PooledVectors, pooling_named

    scores = Cosine(PooledVectors(pooling, vectors, pooling_named(pooling)))(gold.pairs)
    return pearson(np.nan_to_num(scores), gold.gold)


def _rows(table: str, name: str, figures: list[tuple[float, float]], seeds: tuple[int, ...]) -> Rows:
    """The mean over seeds, and each seed."""
    mean = tuple(fmean(one) for one in zip(*figures, strict=True))
    told = [("mean", mean), *((str(seed), one) for seed, one in zip(seeds, figures, strict=True))]
    return [
        {"table": table, table: name, "seed": seed, "BIOSSES r": round(biosses, 4), "CTR r": round(ctr, 4)}
        for seed, (biosses, ctr) in told
    ]
