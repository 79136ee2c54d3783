"""How long a matrix of 1,000 x 1,000 sentences takes with all-MiniLM-L6-v2, beside sentence-transformers."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from quiltwork.core.bench import Claim, Context, Outcome, at_least
from quiltwork.core.errors import NotFoundError
from work.encoders import CORPUS, sentences
from work.side import Side

NAME = "text.matrix_speed"
CLAIMS = (
    Claim(name=NAME, room="text", title="1e3 x 1e3 similarity matrix, MiniLM, float32, vs sentence-transformers tuned",
          reach=at_least(1.5), ratio="baseline/ours", unit="s"),
)  # fmt: skip
WITHIN = 1e-4
"""How far apart the vectors' numbers and the cosines may be."""


def run(context: Context) -> Mapping[str, Outcome]:
    """Each side in a process of its own with all cores, in turn; nothing is cached between two rounds."""
    if context.data is None or not (context.data / CORPUS).is_file():
        raise NotFoundError("the corpus is not here", where=str(CORPUS), hint="set QUILTWORK_DATA")
    side, repeats = (200, 3) if context.quick else (1000, 5)
    texts = sentences(context.data, 2 * side, context.seed)
    lists = {"left": texts[:side], "right": texts[side:]}
    cores = len(os.sched_getaffinity(0))
    with (
        Side("work.encoders:Ours", threads=cores, **lists) as ours,
        Side("work.encoders:Tuned", threads=cores, tuned_on=min(side, 300), **lists) as tuned,
    ):
        arms = {"sentence-transformers": lambda: tuned.call("matrix"), "ours": lambda: ours.call("matrix")}
        samples = context.interleave(arms, repeats)
        tuning = tuned.call("tuning")
        (our_vectors, our_matrix), (their_vectors, their_matrix) = ours.call("results"), tuned.call("results")
    apart = float(np.abs(our_vectors - their_vectors).max())
    apart_in_matrix = float(np.abs(our_matrix - their_matrix).max())
    return {
        NAME: Outcome(
            ours=[one.wall_s for one in samples["ours"]],
            baseline=[one.wall_s for one in samples["sentence-transformers"]],
            answers_equal=max(apart, apart_in_matrix) <= WITHIN,
            details={
                "sentences": 2 * side,
                "cores": cores,
                "largest_difference_of_vectors": apart,
                "largest_difference_of_cosines": apart_in_matrix,
                "tuning_s": tuning,
            },
            rows=[
                {"side": name, "s": round(float(np.median([one.wall_s for one in found])), 3),
                 "cpu s": round(float(np.median([one.cpu_s for one in found])), 3)}
                for name, found in samples.items()
            ],
        )
    }  # fmt: skip
