"""A line for every optimiser step of a worker, and the longest time between two of them: what a change really costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO

from quiltwork.core.errors import BadInputError, NotFoundError


@dataclass(frozen=True)
class StepTime:
    """An optimiser step that has just been taken."""

    at: float
    """Seconds; the worker's monotonic clock, which all processes of one machine share."""
    done: int
    generation: int


class StepLog:
    """Appends to a file, line by line, so that a worker that is killed leaves all but the last one whole.

    A log that cannot be written any more, on a full disk for one, ends there: training does not hang on it.
    """

    def __init__(self, path: str | None) -> None:
        self._file: IO[bytes] | None = None
        if path is not None:
            self._file = Path(path).open("ab", buffering=0)  # noqa: SIM115  open as long as the worker lives

    def add(self, step: StepTime) -> None:
        if self._file is not None:
            try:
                self._file.write(f"{step.at:.6f} {step.done} {step.generation}\n".encode())
            except OSError:
                self._file.close()
                self._file = None


def read_step_log(path: str | Path) -> Iterator[StepTime]:
    """A worker's steps, in their order. A last line that was cut off is left out.

    Raises NotFoundError, or BadInputError naming the line.
    """
    try:
        text = Path(path).read_text(encoding="ascii", errors="replace")
    except FileNotFoundError as error:
        raise NotFoundError("there is no such file", where=str(path)) from error
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        parts = line.split()
        if not line.endswith("\n"):
            return
        try:
            at, done, generation = parts
            step = StepTime(float(at), int(done), int(generation))
        except ValueError as error:
            raise BadInputError("is not a step", where=f"{path}: line {number}") from error
        yield step


def longest_gap(steps: Iterable[StepTime]) -> tuple[float, StepTime] | None:
    """The longest time between two optimiser steps that follow each other, and the step that ended it.

    Of one worker or, merged, of all workers of a machine: then steps count when the last worker has taken them. None
    where there are fewer than two steps.
    """
    taken: dict[int, StepTime] = {}
    for step in steps:
        if step.done not in taken or taken[step.done].at < step.at:
            taken[step.done] = step
    ordered = sorted(taken.values(), key=lambda step: step.at)
    gaps = [(after.at - before.at, after) for before, after in pairwise(ordered)]
    return max(gaps, key=lambda gap: gap[0], default=None)
