"""Adaptive gating where it is trained: time to the top-2 arm's validation loss, quality on test, and which tokens.

All arms are one model in one kernel, with the same initial weights and order of data for a seed; only the gate differs
(dense layers are as wide as two experts). Runs are kept in ``$QUILTWORK_BENCH_WORK`` and taken from there; to make them
takes hours, and ``python -m work.moe_runs`` does that at leisure, to be stopped and gone on with.

Time to a loss is the steps that a run took to it, each of them at what a step with so many experts per token costs. The
latter is measured here, arm beside arm, in CPU-seconds of one thread; what the runs themselves took, beside whatever
else ran then, stands in the rows. The loss to be reached is the minimum of the validation curve of top-2 with that
seed. An arm that never reaches it has the time of all its steps, and is counted as having never got there.

The gate's threshold and reading are chosen on SST-5, which nothing else is reported of; each arm's rate on validation,
the same three for every arm. ``moe_choices.json``, where it is there, holds both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from quiltwork.core.bench import Claim, Context, Outcome, at_most
from quiltwork.core.errors import NotFoundError

if TYPE_CHECKING:
    from quiltwork.core.servable import Json

BEST, MEAN, TOP1 = "moe.time_to_loss_best", "moe.time_to_loss_mean", "moe.time_to_loss_vs_top1"
ACCURACY, BLEU, BITS = "moe.quality_accuracy", "moe.quality_bleu", "moe.quality_bits"
SECOND = "moe.random_second_inference"
TASKS = "War and Peace, SST-2, Multi30k en-de"
CLAIMS = (
    Claim(name=BEST, room="moe", title=f"time to top-2's validation loss, adaptive vs top-2, best of {TASKS}",
          reach=at_most(0.775), ratio="ours/baseline", unit="CPU-s", parity=False),
    Claim(name=MEAN, room="moe", title=f"time to top-2's validation loss, of top-2's; mean of {TASKS}",
          reach=at_most(0.85), ratio="ours/baseline", unit="of top-2's time", parity=False),
    Claim(name=TOP1, room="moe", title=f"time to top-2's validation loss, adaptive vs top-1; mean of {TASKS}",
          reach=at_most(1.0), ratio="ours/baseline", unit="of top-2's time", parity=False),
    Claim(name=ACCURACY, room="moe", title="1 + mean loss of accuracy against top-2, SST-2 test, at least 5 seeds",
          reach=at_most(1.005), ratio="ours/baseline", unit="x", parity=False),
    Claim(name=BLEU, room="moe", title="1 + mean loss of BLEU / 100 against top-2, Multi30k en-de test 2016, 5 seeds",
          reach=at_most(1.005), ratio="ours/baseline", unit="x", parity=False),
    Claim(name=BITS, room="moe", title="bits per byte of top-2's, War and Peace test, mean of 5 seeds",
          reach=at_most(1.005), ratio="ours/baseline", unit="x", parity=False),
    Claim(name=SECOND, room="moe",
          title="one trained top-2 model, War and Peace test: loss with second experts by the gate vs by lot",
          reach=at_most(1.0), ratio="ours/baseline", unit="of the lot's loss", parity=False),
)  # fmt: skip


def run(context: Context) -> Mapping[str, Outcome]:
    """Take the runs, or do them; measure steps; hold second experts against a lot."""
    from work import moe_arms as arms
    from work.moe_choices import FILE, read_choices
    from work.moe_curve_records import curves_told, experts_told
    from work.moe_figures import (
        FEWEST,
        Studied,
        quality_outcome,
        quality_rows,
        time_outcomes,
        time_rows,
        trained_second_rows,
    )
    from work.moe_kept import work_folder
    from work.moe_measured import costs_of, second_experts
    from work.moe_second import outcome_of
    from work.moe_sweep import all_runs, chosen, gate_of, kept_in, performer, told_of, unchosen

    if context.data is None:
        raise NotFoundError("needs texts and pairs", where="moe", hint="set QUILTWORK_DATA to their folder")
    root = work_folder(context.scratch, {} if context.quick else None)
    kept = kept_in(root)
    perform = performer(kept, context.data, context.progress)
    tasks, seeds = (arms.quick_tasks(), arms.SEEDS[:1]) if context.quick else (arms.TASKS, arms.SEEDS)
    made = read_choices if FILE.is_file() else (lambda: chosen(perform, root))
    choices = unchosen(tasks) if context.quick else made()
    gate, rates = gate_of(choices), choices["rates"]
    assert isinstance(rates, dict)
    runs = all_runs(choices, perform, tasks, seeds)
    studied = {
        task.name: Studied(task, runs[task.name], costs_of(task, rates[task.name], gate, context)) for task in tasks
    }
    lm = studied["lm"]
    top2 = arms.of_arm(lm.task, arms.TOP2, arms.SEEDS[0], rates["lm"], gate)
    second, second_rows = second_experts(top2, kept.folder(told_of(top2, context.data)), str(gate["reading"]), context)
    rows: list[Mapping[str, Json]] = [row for one in studied.values() for row in time_rows(one)]
    rows += time_rows(lm, (arms.TOP2, arms.ADAPTIVE, *arms.FURTHER), table="moe-gates")
    rows += [row for one in studied.values() for row in quality_rows(one)]
    rows += [*second_rows, *trained_second_rows(lm)]
    fewest = 1 if context.quick else FEWEST
    best, mean, top1 = time_outcomes(studied)
    curves: dict[str, Json] = {name: curves_told(one) for name, one in studied.items()}
    experts: dict[str, Json] = {name: experts_told(one) for name, one in studied.items()}
    best = replace(best, details={**best.details, "curves": curves, "experts": experts})
    qualities = {name: quality_outcome(studied[task], fewest)
                 for name, task in ((ACCURACY, "sst2"), (BLEU, "multi30k"), (BITS, "lm"))}  # fmt: skip
    found = {BEST: best, MEAN: mean, TOP1: top1, **qualities, SECOND: outcome_of(second)}
    told: dict[str, Json] = {"choices": choices, "sources": kept.sources}
    return {
        name: Outcome(one.ours, one.baseline, details={**one.details, **told}, rows=rows) for name, one in found.items()
    }
