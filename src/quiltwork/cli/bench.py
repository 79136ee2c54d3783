"""``quiltwork bench``: what the project claims, and whether it holds."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import RenderableType

from quiltwork.cli.output import emit, narration, show, table
from quiltwork.core.bench import (
    Benchmark,
    Record,
    Verdict,
    benchmark_of,
    discover,
    find_folder,
    judge,
    measure,
    standings,
    write,
)
from quiltwork.core.bench.tables import amount, by_table, cell, columns, pages, rewritten
from quiltwork.core.errors import BadInputError, NotFoundError, QuiltworkError
from quiltwork.core.servable import Json

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="The project's claims: list them, measure them, print their tables.",
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def ls(json: JsonOption = False) -> None:
    """List the claims: how far they have to reach, how far they did, whether they are met."""
    folder = find_folder(Path.cwd())
    found = standings(discover(folder), folder / "records")
    made = table("claim", "reach", "measured", "interval", "met", "recorded", numbers=("measured",))
    for standing in found:
        verdict, record = standing.verdict, standing.record
        made.add_row(
            standing.claim.name,
            f"{standing.claim.ratio} {standing.claim.reach}",
            *(_figures(verdict) if verdict is not None else ("", "", "not measured")),
            record.started if record is not None else "",
        )
    emit([standing.document() for standing in found], json, made)


@app.command()
def run(
    name: Annotated[str | None, typer.Argument(help="A claim (quiltwork bench ls).")] = None,
    all: Annotated[
        bool, typer.Option("--all", help="Every claim; skips those whose peer or data is not here.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="The same on less work; not recorded.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Where all randomness comes from.")] = 0,
    json: JsonOption = False,
) -> None:
    """Measure a claim, with all others that the same run settles, and record them. Exits with 1 where one is missed."""
    if (name is None) is not all:
        raise BadInputError("give the name of a claim, or --all", where="bench run")
    folder = find_folder(Path.cwd())
    found = discover(folder)
    chosen = found if name is None else (benchmark_of(name, found),)
    data = _data(folder.parent)
    records: list[Record] = []
    failed: list[str] = []
    for benchmark in chosen:
        try:
            records += _measured(benchmark, folder, data, quick=quick, seed=seed, json=json)
        except QuiltworkError as error:
            if len(chosen) == 1:
                raise
            if isinstance(error, NotFoundError):  # a peer or data that this machine does not have
                print(f"quiltwork: skipped {benchmark.path.name}: {error}", file=sys.stderr)
                continue
            print(f"quiltwork: {error}", file=sys.stderr)
            failed.append(benchmark.path.name)
    if json:
        emit([record.document() for record in records], True, "")
    _end(records, failed, quick=quick)


@app.command("table")
def table_(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 1 where a page is out of date.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Write the tables in README.md and docs anew from the records."""
    folder = find_folder(Path.cwd())
    found = standings(discover(folder), folder / "records")
    project, changed = folder.parent, []
    for page in pages(project):
        text = page.read_text(encoding="utf-8")
        made = rewritten(text, found, where=str(page.relative_to(project)))
        if made != text:
            changed.append(str(page.relative_to(project)))
            if not check:
                page.write_text(made, encoding="utf-8")
    if check and changed:
        raise QuiltworkError("not as the records say", where=", ".join(changed), hint="quiltwork bench table")
    emit({"changed": changed}, json, f"written: {', '.join(changed)}" if changed else "all pages are up to date")


def _measured(
    benchmark: Benchmark, folder: Path, data: Path | None, *, quick: bool, seed: int, json: bool
) -> tuple[Record, ...]:
    """Run one benchmark, show and keep what it found."""
    words = ["quiltwork bench run", benchmark.claims[0].name, "--quick" * quick, f"--seed {seed}" * (seed != 0)]
    # What the measured code prints is no part of the report.
    with redirect_stdout(sys.stderr), narration(benchmark.path.stem) as say:
        found = measure(
            benchmark, quick=quick, seed=seed, data=data, command=" ".join(filter(None, words)), progress=say
        )
    if not quick:
        for record in found:
            write(folder / "records", record)
    if not json:
        show(*_report(found))
    return found


def _report(records: tuple[Record, ...]) -> list[RenderableType]:
    made = table("claim", "reach", "measured", "interval", "met", "ours", "baseline", numbers=("measured",))
    shown: list[RenderableType] = [made]
    printed: list[Json] = []
    for record in records:
        claim, outcome = record.claim, record.outcome
        sides = (amount(median(side), claim.unit) for side in (outcome.ours, outcome.baseline))
        made.add_row(claim.name, f"{claim.ratio} {claim.reach}", *_figures(judge(claim, outcome)), *sides)
        # Claims of one run often have their rows in common.
        if outcome.rows and outcome.rows not in printed:
            printed.append(outcome.rows)
            shown += [_beside(title, rows) for title, rows in by_table(outcome.rows)]
    first = records[0]
    kind = "quick run, not recorded" if first.quick else "recorded"
    shown.append(f"{kind}; {first.seconds:.0f} s; load of others {first.load['others_cores']} cores")
    return shown


def _beside(title: str, rows: Sequence[Mapping[str, Json]]) -> RenderableType:
    names = columns(rows)
    made = table(*names, title=title)
    for row in rows:
        made.add_row(*(cell(row.get(name)) for name in names))
    return made


def _figures(verdict: Verdict) -> tuple[str, str, str]:
    low, high = verdict.interval.low, verdict.interval.high
    return f"{verdict.ratio:.4g}x", f"[{low:.4g}, {high:.4g}]", "met" if verdict.met else f"missed: {verdict.why}"


def _end(records: list[Record], failed: list[str], *, quick: bool) -> None:
    # A quick run is too small to settle how far a claim reaches, but different answers are different at any size.
    missed = [
        record.claim.name
        for record in records
        if (record.outcome.answers_equal is False if quick else not judge(record.claim, record.outcome).met)
    ]
    troubles = [f"failed: {', '.join(failed)}"] * bool(failed) + [f"missed: {', '.join(missed)}"] * bool(missed)
    if troubles:
        raise QuiltworkError("; ".join(troubles), where="bench run")


def _data(project: Path) -> Path | None:
    """The folder of real data: $QUILTWORK_DATA, else ../shared/data from the project; None where it is not there."""
    named = os.environ.get("QUILTWORK_DATA")
    if named and not Path(named).is_dir():
        raise BadInputError("is not a folder", where=f"QUILTWORK_DATA={named}")
    folder = Path(named).resolve() if named else project.parent / "shared" / "data"
    return folder if folder.is_dir() else None
