"""What commands about sentences have in common: the model, the table they are in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quiltwork.cli.parallel import check_parallel
from quiltwork.core.errors import BadInputError
from quiltwork.core.names import parse_ref

if TYPE_CHECKING:
    from quiltwork.text.embedder import Embedder

ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="A model's folder, or with --zoo its name there; all-MiniLM-L6-v2 where not given."),
]
ZooOption = Annotated[Path | None, typer.Option("--zoo", help="The zoo that --model is in.")]
ThreadsOption = Annotated[int | None, typer.Option(help="Cores that an encoder uses; all where not given.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def chosen_model(model: str | None, zoo: Path | None, threads: int | None) -> Embedder:
    """The model that the options name."""
    from quiltwork.text.models import load, model_at

    check_parallel("--threads", threads)
    if zoo is None:
        return model_at(model, threads=threads)
    if model is None:
        raise BadInputError("names no model of the zoo", where="--model")
    from quiltwork.text.zoo_files import ZooFiles
    from quiltwork.zoo import Zoo

    with Zoo(zoo, create=False) as opened:
        files = ZooFiles(opened, parse_ref(model))
        return load(files, name=files.model.ref.name, threads=threads)


def column(path: Path, name: str) -> tuple[str, ...]:
    """One column of a table."""
    from quiltwork.text.columns import read_columns

    return read_columns(path, [name]).texts[name]
