"""``quiltwork cluster simulate``: a trace of jobs under one policy or several, beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType
from rich.table import Table

from quiltwork.cli import cluster_study as options
from quiltwork.cli.output import emit, narration, table

if TYPE_CHECKING:
    from quiltwork.cluster.study import Comparison


@options.of_a_study
def simulate(
    given: Mapping[str, Any],
    context: typer.Context,
    train: Annotated[int, typer.Option("--train", help="Training's servers.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="A folder for jobs.parquet, log.parquet, metrics.json, timing.json.")
    ] = None,
    report: Annotated[Path | None, typer.Option("--report", help="An HTML file with pictures.")] = None,
    json: options.JsonOption = False,
) -> None:
    """Run a trace of training jobs on a described cluster under virtual time, until the last job has ended.

    Several policies run one after the other on the same jobs, and are shown beside each other.
    """
    from quiltwork.cluster.policy.quotas import quotas_of
    from quiltwork.cluster.study import arms_of, check_writable, compare

    arms = arms_of(given["policy"] or options.DEFAULT_POLICIES, given["set_"] or (), quotas_of(given["quota"] or ()))
    # Before minutes of simulating, not after them.
    if out is not None:
        check_writable(out, folder=True)
    if report is not None:
        check_writable(report, folder=False)
    with narration("simulate") as say:
        study, inputs = options.study_from(given, train, say)
        found = compare(study, arms, out=out, report=report, inputs=inputs, command=options.spelled(context),
                        progress=say)  # fmt: skip
    emit(found.document() | {"wall_s": found.timing()}, json, *_shown(found, out, report))


def _shown(found: Comparison, out: Path | None, report: Path | None) -> list[RenderableType]:
    from quiltwork.cluster.study import lines_of

    names = [outcome.arm.name for outcome in found.outcomes]
    made: Table = table("figure", *names, "what it is", numbers=names)
    for at, (group, lines) in enumerate(groupby(lines_of(found), key=lambda line: line.group)):
        if at:
            made.add_row()
        made.add_row(group)
        for line in lines:
            made.add_row(f"  {line.name}", *line.values, line.of)
    written = [f"{what}: {path}" for what, path in (("tables", out), ("report", report)) if path is not None]
    return [*found.notes, made, *written]
