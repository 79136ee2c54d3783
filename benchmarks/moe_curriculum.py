"""How long ranks wait for the slowest of them: samples by what they need, or just buckets of alike length.

SST-2 by its bytes, micro-batches of 4 sequences, one for each rank of a step. Both arms have the same buckets of alike
length and the same first epoch, which is random. Off: samples of a bucket at random, shares as they come. On: those
that are predicted to cost as much come together, from what was recorded of their routing in the epoch before, and
shares are balanced by that prediction. A sample is a seed: the mean over steps of max / mean rank time - 1.

The rows have what length alone does, order (from the first epoch on) and shares by it: what is left to recorded routing
is the difference between that row and the one called on. They have too each of the two for itself, the paper's cosine
order and the order by mean complexity, frozen (simple to complex) and in shuffled groups, what was waited for until the
loss was the least that the off arm had, and its loss.
The gate compares the two best experts with each other (reading ``pair``), so that from the first step on some tokens
have one and some two: with the softmax over all, trainings as short as these leave nearly every token with two.
Intervals are of the mean over seeds by Student's t. Ranks are timed as ``work.moe_ranks`` says.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quiltwork.core.bench import Claim, Context, Outcome, at_most
from quiltwork.core.errors import NotFoundError

if TYPE_CHECKING:
    from quiltwork.core.servable import Json
    from work.moe_ranks import Course

RANKS = (2, 4)
CLAIMS = tuple(
    Claim(name=f"moe.curriculum_straggler_{n}", room="moe", title=f"wait for the slowest of {n} ranks vs no curriculum",
          reach=at_most(0.5), ratio="ours/baseline", unit="max / mean rank CPU time - 1")
    for n in RANKS
)  # fmt: skip
SEEDS = 3
SAMPLES = 800
"""Of SST-2, every n-th: so that epochs are short."""
EPOCHS = 2.0
BUCKETS = 10
OFF, ON, LENGTH = "off", "on", "length alone"
ARMS: Mapping[str, Mapping[str, Json]] = {
    OFF: {"order": "random"},
    ON: {"order": "cost", "shares": "balanced"},
    LENGTH: {"order": "length", "shares": "length"},
    "balanced shares alone": {"order": "random", "shares": "balanced"},
    "order alone, mean": {"order": "mean"},
    "order alone, cosine": {"order": "cosine"},
    "order alone, mean, frozen": {"order": "mean", "frozen": True},
    "order alone, cosine, frozen (the paper's)": {"order": "cosine", "frozen": True},
}
ONLY_FEW = tuple(ARMS)[3:]
"""Arms that are run with the fewest ranks alone."""
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""97.5 % quantiles of Student's t, by number of samples."""


def run(context: Context) -> Mapping[str, Outcome]:
    """Train every arm with every seed."""
    if context.data is None:
        raise NotFoundError("needs SST-2", where="moe", hint="set QUILTWORK_DATA to the folder of real data")
    config = _config(context.data / "moe" / "classify", context.scratch, 96 if context.quick else SAMPLES)
    return {claim.name: _against(context, ranks, config) for claim, ranks in zip(CLAIMS, RANKS, strict=True)}


def _config(data: Path, scratch: Path, samples: int) -> dict[str, Json]:
    for part, most in (("train", samples), ("dev", 256), ("test", 64)):
        lines = (data / f"sst2.{part}.tsv").read_text(encoding="utf-8").splitlines()
        taken = lines[:: max(1, len(lines) // most)][:most]
        (scratch / f"{part}.tsv").write_text("\n".join(taken) + "\n", encoding="utf-8")
    paths = {
        name: str(scratch / f"{part}.tsv") for name, part in (("corpus", "train"), ("valid", "dev"), ("test", "test"))
    }
    return {**paths, "task": "classify", "tokenizer": "byte", "length": 256,
            "gate": "adaptive", "reading": "pair", "layers": 2, "micro_batch": 4, "buckets": BUCKETS,
            "warm_up": 30}  # fmt: skip


def _against(context: Context, ranks: int, config: Mapping[str, Json]) -> Outcome:
    from work.moe_ranks import Run, cpu_clock, train

    batch = 4 * ranks
    samples = len(Path(str(config["corpus"])).read_text(encoding="utf-8").splitlines())
    steps = math.ceil(EPOCHS * samples / batch)
    how = Run(ranks, steps, math.ceil(samples / batch) + 1, 6 if context.quick else 24, 7, 3 if context.quick else 8)
    seeds = range(context.seed, context.seed + (2 if context.quick else SEEDS))
    courses: dict[str, list[Course]] = {}
    for seed in seeds:  # arms in turn: what drifts on the machine meets all of them
        for arm, settings in ARMS.items():
            if arm in ONLY_FEW and (ranks != min(RANKS) or context.quick):
                continue
            context.progress(f"{ranks} ranks, seed {seed}: {arm}")
            out = context.scratch / f"{ranks}-{seed}-{list(ARMS).index(arm)}"
            found = train({**config, **settings, "batch": batch}, out, seed, how, cpu_clock)
            courses.setdefault(arm, []).append(found)
    rows = [_row(ranks, arm, found, courses[OFF]) for arm, found in courses.items()]
    excess = {arm: [statistics.fmean(one.excess) for one in found] for arm, found in courses.items()}
    details: dict[str, Json] = {
        "samples": samples, "steps": steps, "seeds": len(seeds), "buckets": BUCKETS,
        "predicted and measured cost of shares, r": round(statistics.correlation(
            [x for one in courses[OFF] for x in one.predicted], [x for one in courses[OFF] for x in one.took]), 3),
    }  # fmt: skip
    return Outcome(ours=excess[ON], baseline=excess[OFF], details=details, rows=rows)


def _row(ranks: int, arm: str, courses: Sequence[Course], off: Sequence[Course]) -> dict[str, Json]:
    from work.moe_ranks import path_to

    targets = [min(one.loss) for one in off]
    reached = [path_to(one, target) for one, target in zip(courses, targets, strict=True)]
    base = [path_to(one, target) for one, target in zip(off, targets, strict=True)]
    ratios = [a / b for a, b in zip(reached, base, strict=True) if a is not None and b is not None]
    losses = [min(one.loss) - target for one, target in zip(courses, targets, strict=True)]
    return {
        "ranks": ranks,
        "arm": arm,
        "excess": _told([statistics.fmean(one.excess) for one in courses]),
        "longest / mean length": round(statistics.fmean(x for one in courses for x in one.lengths), 3),
        "time to off's least loss, of off's": _told(ratios) if len(ratios) > 1 else "-",
        "reached it": f"{len(ratios)} of {len(courses)}",
        "least loss - off's": _told(losses),
    }


def _told(values: Sequence[float]) -> str:
    """The mean, and half of its 95 % interval."""
    half = STUDENT[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.fmean(values):.4f} ± {half:.4f}"
