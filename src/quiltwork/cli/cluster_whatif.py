"""``quiltwork cluster whatif``: the same jobs on clusters of several sizes; how many servers it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType

from quiltwork.cli import cluster_study as options
from quiltwork.cli.output import emit, narration, table
from quiltwork.core.errors import BadInputError
from quiltwork.core.units import format_duration, parse_duration

if TYPE_CHECKING:
    from quiltwork.cluster.study import Sizing


@options.of_a_study
def whatif(
    given: Mapping[str, Any],
    context: typer.Context,
    train: Annotated[str, typer.Option("--train", help="Numbers of training servers to try: 150,172,200.")],
    lend: Annotated[
        str | None, typer.Option("--lend", help="Try so many servers of inference's type always on loan: 0,20,40.")
    ] = None,
    queue: Annotated[str | None, typer.Option("--queue", help="The mean queue that is to be held: 10m.")] = None,
    json: options.JsonOption = False,
) -> None:
    """Run a trace of training jobs on clusters of several sizes, and tell which hold a queue.

    Exits with 1 where a queue was asked for and no size holds it under any policy.
    """
    from quiltwork.cluster.policy.quotas import quotas_of
    from quiltwork.cluster.study import whatif as answer

    sizes = _numbers(train, "--train")
    lent = [] if lend is None else _numbers(lend, "--lend")
    limit_s = None if queue is None else parse_duration(queue, where="--queue")
    with narration("what if") as say:
        study, _ = options.study_from(given, min(sizes), say)
        found = answer(study, sizes, given["policy"] or options.DEFAULT_POLICIES, lend=lent, queue_s=limit_s,
                       changes=given["set_"] or (), quotas=quotas_of(given["quota"] or ()), progress=say)  # fmt: skip
    emit({"command": options.spelled(context)} | found.document(), json, *_shown(found))
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
