"""Writing models out again: the very files that came in, or a merged model as one Hugging Face directory."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from quiltwork.core.disk import FULL
from quiltwork.core.errors import BadInputError, CapacityError, ConflictError, QuiltworkError
from quiltwork.core.names import ModelRef
from quiltwork.zoo.derived import MADE, refuse_export
from quiltwork.zoo.dtypes import widen
from quiltwork.zoo.formats.rotary_rows import interleaved
from quiltwork.zoo.recipe import FileRecipe, Recipe, TensorPiece, load

if TYPE_CHECKING:
    from quiltwork.zoo.zoo import Zoo

FORMATS = ("source", "hf")


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    path: Path
    files: int
    nbytes: int
    exact: bool
    """Whether the files are those that came in, byte for byte."""
    substitutions: int = 0
    """Parts of an adapted model that other models' blocks serve; ``substitutions.json`` lists them."""


def export(
    zoo: Zoo,
    ref: ModelRef | str,
    dest: str | PathLike[str],
    *,
    lossy: bool = False,
    merged: bool = False,
    format: str = "source",
    progress: Callable[[int], None] | None = None,
) -> Exported:
    """Write a model to ``dest``, which must not exist or be an empty folder; on an error nothing is left there.

    lossy : allow a model that is kept with rounded differences; its files are then not those that came in.
    merged : an adapter and its base as one model (always a Hugging Face directory).
    format : ``source`` for the files that came in (a directory, or one GGUF file), ``hf`` for a Hugging Face
        directory made from the parts.

    Raises BadInputError for a lossy model that was not allowed, ConflictError where ``dest`` is in use,
    UnsupportedError for what cannot be merged and for a chain with a stitch, CapacityError where the disk is full.
    """
    if format not in FORMATS:
        raise BadInputError(f"{format!r} is not one of {', '.join(FORMATS)}", where="format")
    model = zoo.model(ref)
    if model.lossy and not lossy:
        raise BadInputError(
            f"{len(model.lossy)} of its tensors are kept rounded, so its files cannot be written exactly",
            where=str(model.ref),
            hint="--lossy writes what is kept",
        )
    report = progress or (lambda nbytes: None)
    target = Path(dest)
    if merged or format == "hf":
        from quiltwork.zoo.merge import write_merged

        with _fresh(target, folder=True) as fresh:
            count, nbytes = write_merged(zoo, model, fresh, merged=merged, report=report)
        return Exported(target, count, nbytes, exact=False, substitutions=len(model.substitutions))
    recipe = load(zoo.recipe(model.ref), where=f"recipe of {model.ref}")
    if recipe.kind == MADE:
        raise refuse_export(model)
    if recipe.kind == "file" and target.is_dir():
        target = target / recipe.files[0].path
    with _fresh(target, folder=recipe.kind == "directory") as fresh:
        count, nbytes = _write(zoo, recipe, fresh, report)
    exact = not model.lossy and not model.measured
    return Exported(target, count, nbytes, exact=exact, substitutions=len(model.substitutions))


@contextmanager
def _fresh(target: Path, *, folder: bool) -> Iterator[Path]:
    """A place to write beside ``target``, which takes its place at the end."""
    if target.is_symlink() or (target.exists() and not (folder and target.is_dir() and not any(target.iterdir()))):
        raise ConflictError("exists already", where=str(target), hint="choose a place that does not")
    fresh = target.parent / f".{target.name}.{secrets.token_hex(6)}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if folder:
            fresh.mkdir()
        yield fresh
        os.replace(fresh, target)
    except OSError as error:
        if error.errno in FULL:
            raise CapacityError("the disk is full", where=str(target), hint="nothing was written") from error
        raise QuiltworkError(f"cannot be written: {error.strerror or error}", where=str(target)) from error
    finally:
        if fresh.is_dir():
            shutil.rmtree(fresh, ignore_errors=True)
        elif fresh.exists():
            fresh.unlink()


def _write(zoo: Zoo, recipe: Recipe, root: Path, report: Callable[[int], None]) -> tuple[int, int]:
    total = 0
    for entry in recipe.files:
        path = root / entry.path if recipe.kind == "directory" else root
        path.parent.mkdir(parents=True, exist_ok=True)
        if entry.link is not None:
            path.symlink_to(entry.link)
        elif entry.pieces is None and entry.content is None:
            path.mkdir()
        else:
            with path.open("xb") as file:
                for piece in _pieces(zoo, entry):
                    file.write(piece)
                    total += len(piece)
                    report(len(piece))
                file.flush()
                os.fsync(file.fileno())
    return len(recipe.files), total


def _pieces(zoo: Zoo, entry: FileRecipe) -> Iterator[bytes | memoryview]:
    if entry.content is not None:
        yield zoo.content(entry.content).data
    for piece in entry.pieces or ():
        if isinstance(piece, TensorPiece):
            data = widen(zoo.content(piece.content), piece.stored_dtype, piece.dtype)
            if data.size != piece.nbytes:
                raise QuiltworkError(f"{data.size} bytes instead of {piece.nbytes}", where=f"object {piece.content}")
            yield (interleaved(data, piece.rows, piece.rope_heads) if piece.rope_heads else data).data
        else:
            yield piece.data
