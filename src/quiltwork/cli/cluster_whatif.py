"""``quiltwork cluster whatif``: the same jobs on clusters of several sizes; how many servers it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from quiltwork.cli import cluster_study as options
from quiltwork.cli.output import emit, narration, table
from quiltwork.core.errors import BadInputError
from quiltwork.core.units import format_duration, parse_duration

if TYPE_CHECKING:
    from quiltwork.cluster.study import Sizing


def whatif(
    context: typer.Context,
    jobs: options.JobsOption,
    train: Annotated[str, typer.Option("--train", help="Numbers of training servers to try: 150,172,200.")],
    infer: Annotated[int, typer.Option("--infer", help="Inference's servers.")] = 0,
    lend: Annotated[
        str | None, typer.Option("--lend", help="Try so many servers of inference's type always on loan: 0,20,40.")
    ] = None,
    queue: Annotated[str | None, typer.Option("--queue", help="The mean queue that is to be held: 10m.")] = None,
    policy: options.PolicyOption = None,
    inference: options.InferenceOption = None,
    column: options.ColumnOption = None,
    counts: options.CountsOption = False,
    columns: options.ColumnsOption = None,
    limit: options.LimitOption = None,
    gpus_per_server: options.PerServerOption = 8,
    types: options.TypesOption = "V100,T4",
    fungible: options.FungibleOption = 0.21,
    elastic: options.ElasticOption = "most-gpu-time",
    elastic_share: options.ElasticShareOption = 0.05,
    stretch: options.StretchOption = 2,
    checkpointed: options.CheckpointedOption = 0.0,
    hetero: options.HeteroOption = 1.0,
    speed: options.SpeedOption = options.LINEAR,
    mixing: options.MixingOption = 1.0,
    checkpoint: options.CheckpointOption = "600",
    set_: options.SetOption = None,
    estimates: options.EstimatesOption = "oracle",
    seed: options.SeedOption = 0,
    days: options.DaysOption = 15.0,
    skip_too_large: options.SkipOption = False,
    json: options.JsonOption = False,
) -> None:
    """Run a trace of training jobs on clusters of several sizes, and tell which hold a queue.

    Exits with 1 where a queue was asked for and no size holds it under any policy.
    """
    given = dict(locals())  # every option, by the name that it has here
    from quiltwork.cluster.study import whatif as answer

    sizes = _numbers(train, "--train")
    lent = [] if lend is None else _numbers(lend, "--lend")
    limit_s = None if queue is None else parse_duration(queue, where="--queue")
    with narration("what if") as say:
        study, _ = options.study_from(given, min(sizes), say)
        found = answer(study, sizes, policy or options.DEFAULT_POLICIES, lend=lent, queue_s=limit_s,
                       changes=set_ or (), progress=say)  # fmt: skip
    emit({"command": options.spelled(context, given)} | found.document(), json, *_shown(found))
    if limit_s is not None and all(train is None for _, _, train in found.answers()):
        raise typer.Exit(1)


def _numbers(text: str, where: str) -> list[int]:
    found = []
    for part in text.split(","):
        try:
            found.append(int(part))
        except ValueError as error:
            raise BadInputError(f"{part.strip()[:40]!r} is not a number of servers", where=where) from error
    return found


def _shown(found: Sizing) -> list[RenderableType]:
    from quiltwork.cluster.study import duration

    numbers = ("servers", "lent", "mean queue", "p95 queue", "mean JCT", "p95 JCT", "training's GPUs", "all GPUs",
               "goodput", "preemptions")  # fmt: skip
    made = table("policy", *numbers, *(["holds"] if found.queue_s is not None else []), numbers=numbers)
    for point in found.points:
        m = point.metrics
        holds = {None: [], True: ["yes"], False: ["no"]}[found.holds(point)]
        made.add_row(point.arm, f"{point.train:,}", "" if point.lent is None else f"{point.lent:,}",
                     *map(duration, (m.queue_mean_s, m.queue_p95_s, m.jct_mean_s, m.jct_p95_s)),
                     f"{m.usage_train:.1%}", f"{m.usage_all:.1%}", f"{m.goodput:.1%}", f"{m.preemptions:,}",
                     *holds)  # fmt: skip
    return [*found.notes, made, *_answers(found)]


def _answers(found: Sizing) -> list[str]:
    told = []
    for arm, lent, train in found.answers():
        beside = "" if lent is None else f" and {lent} lent"
        what = "no number that was tried" if train is None else f"{train} servers{beside}"
        assert found.queue_s is not None
        told.append(f"{arm}: mean queue within {format_duration(found.queue_s)} with {what}")
    return told
