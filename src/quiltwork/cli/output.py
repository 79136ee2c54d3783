"""How commands print: JSON or a table on standard output, what is under way on standard error."""

from __future__ import annotations

import json as json_text
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from quiltwork.core.progress import Advance, Say
from quiltwork.core.servable import Json

WIDE = 200
"""Columns of output that is not a terminal's."""


def emit(document: Json, json: bool, *shown: RenderableType) -> None:
    """Print the document as JSON where asked, else what is for people to read."""
    if json:
        typer.echo(json_text.dumps(document, indent=2))
    else:
        show(*shown)


def show(*shown: RenderableType, stderr: bool = False) -> None:
    """Print for people. A pipe or a file has no width: there, tables are not squeezed into a terminal's.

    stderr : on standard error, beside what is asked for.
    """
    console = Console(stderr=stderr)
    if not console.is_terminal:
        console = Console(stderr=stderr, width=max(console.width, WIDE))
    for part in shown:
        console.print(part, markup=False, highlight=False)


def table(*columns: str, numbers: Sequence[str] = (), title: str | None = None) -> Table:
    """A plain table; columns named in ``numbers`` are set to the right."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for i, column in enumerate(columns):
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold", no_wrap=i == 0)
    return made


@contextmanager
def transfer(what: str) -> Iterator[Advance]:
    """A count of bytes on the terminal while something long is under way; nothing where there is no terminal."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn())
    with _progress(*columns) as progress:
        task = progress.add_task(escape(what), total=None)
        yield lambda nbytes: progress.advance(task, nbytes)


@contextmanager
def narration(what: str) -> Iterator[Say]:
    """A line on the terminal that says what is being done; nothing where there is no terminal."""
    with _progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as progress:
        task = progress.add_task(escape(what), total=None)
        yield lambda phrase: progress.update(task, description=escape(f"{what}: {phrase}"))


def training_progress() -> Progress:
    """A bar on the terminal for steps of which the number is known, sooner or later."""
    return _progress(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())


def _progress(*columns: ProgressColumn) -> Progress:
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
