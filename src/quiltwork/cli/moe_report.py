"""``quiltwork moe report``: a page to look at, and the same numbers as JSON or CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quiltwork.cli.output import emit, narration, table


def report(
    result: Annotated[Path, typer.Argument(help="The OUT of `quiltwork moe train`.", show_default=False)],
    text: Annotated[
        Path | None, typer.Option(help="A text to read; the beginning of what it was validated on if not given.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The page, as in report.html.")] = None,
    csv: Annotated[Path | None, typer.Option(help="A folder for the numbers as CSV.")] = None,
    tokens: Annotated[int, typer.Option(min=2, max=200_000, help="Read and show about so many.")] = 6000,
    device: Annotated[str, typer.Option(help="Where it is computed.")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Let a trained model read a text, and show how many experts each token took: by layer, over training, and word by
    word. The page needs no network and no other file."""
    from quiltwork.core.errors import BadInputError
    from quiltwork.layers.descent import device_named
    from quiltwork.moe.report.figures import document_of, skew
    from quiltwork.moe.report.making import figures_of
    from quiltwork.moe.report.page import write_page
    from quiltwork.moe.report.tables import write_tables
    from quiltwork.moe.training.result import read_result

    if out is None and csv is None and not json:
        raise BadInputError("nothing is asked for", where="report", hint="--out report.html, --csv FOLDER or --json")
    with narration("reading") as say:
        found = read_result(result, device_named(device))
        say("the text")
        figures = figures_of(found, text, tokens=tokens)
    if out is not None:
        write_page(out, figures)
    if csv is not None:
        write_tables(csv, figures)
    shown = table("layer", "experts per token", "busiest expert", numbers=("experts per token", "busiest expert"))
    for layer, (k, load) in enumerate(zip(figures.experts(), figures.load, strict=True), start=1):
        shown.add_row(str(layer), f"{k:.3f}", f"{skew(load):.2f}x")
    emit(document_of(figures), json, shown, *(f"written to {path}" for path in (out, csv) if path is not None))
