"""The numbers of a report as CSV files in a folder."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from quiltwork.core.disk import disk_errors
from quiltwork.moe.report.figures import Figures, skew, words_of

Cell = str | int | float | None


def write_tables(folder: Path, figures: Figures) -> list[Path]:
    """``tokens.csv``, ``layers.csv``, ``load.csv``, ``words.csv``, and ``training.csv`` where there was a training.

    Raises QuiltworkError where they cannot be written.
    """
    layers = range(1, figures.layers + 1)
    named = [f"layer_{layer}" for layer in layers]
    tables: dict[str, tuple[Sequence[str], Iterable[Sequence[Cell]]]] = {
        "tokens": (
            ("place", "text", "experts", *named, "loss"),
            ((at, p.text, p.mean, *p.experts, p.loss) for at, p in enumerate(figures.pieces)),
        ),
        "layers": (
            ("layer", "experts_per_token", *(f"share_{k}" for k in range(figures.most + 1)), "skew"),
            (
                (layer, k, *shares, skew(load))
                for layer, k, shares, load in zip(layers, figures.experts(), figures.shares, figures.load, strict=True)
            ),
        ),
        "load": (
            ("layer", "expert", "assignments"),
            ((layer, e, n) for layer, load in zip(layers, figures.load, strict=True) for e, n in enumerate(load, 1)),
        ),
        "words": (
            ("word", "count", "experts_per_token"),
            ((word.text, word.count, word.experts) for word in words_of(figures.pieces, least=1)),
        ),
    }
    if (course := figures.course) is not None:
        held = dict(zip(course.held_out_steps, course.held_out, strict=True))
        tables["training"] = (
            ("step", "loss", *named, "held_out"),
            (
                (step, loss, *row, held.get(step))
                for step, loss, row in zip(course.steps, course.loss, course.experts, strict=True)
            ),
        )
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return [_write(folder / f"{name}.csv", head, rows) for name, (head, rows) in tables.items()]


def _write(path: Path, head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return path
