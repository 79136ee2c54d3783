"""How large a job's batches are, and since when: what its learning rate hangs on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from quiltwork.cluster.elastic.rates import learning_rate
from quiltwork.cluster.spec import LearningRate
from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json

FIXED_LOCAL, FIXED_GLOBAL = "fixed_local", "fixed_global"
MODES = (FIXED_LOCAL, FIXED_GLOBAL)


@dataclass(frozen=True)
class Course:
    """Goes with a job's state, from worker to worker and into checkpoints."""

    size: int
    """Samples of one worker (``fixed_local``) or of all (``fixed_global``)."""
    first: int
    """Samples of the job's first step, of all workers together."""
    batch: int
    """Those of its next step."""
    changed: int
    """Steps that had been done when the batch last changed."""

    def to_json(self) -> dict[str, Json]:
        return asdict(self)


def begun(mode: str, size: int, workers: int) -> Course:
    """The course of a job that begins with so many workers. Raises BadInputError."""
    batch = batch_of(mode, size, workers)
    return Course(size, batch, batch, 0)


def resized(course: Course, mode: str, workers: int, done: int) -> Course:
    """The same job with another number of workers, from the step after the ``done`` first ones on."""
    batch = batch_of(mode, course.size, workers)
    return course if batch == course.batch else replace(course, batch=batch, changed=done)


def batch_of(mode: str, size: int, workers: int) -> int:
    """Samples of one step of all workers together. Raises BadInputError."""
    if mode not in MODES:
        raise BadInputError(f"{mode!r} is not a batch mode", where="batch: mode", hint=f"known: {', '.join(MODES)}")
    if size < 1 or workers < 1:
        raise BadInputError(f"{size} samples for {workers} workers cannot be", where="batch: size")
    return size * workers if mode == FIXED_LOCAL else size


def rate_of(course: Course, lr: LearningRate, done: int) -> float:
    """The learning rate of the step after the ``done`` first ones."""
    return learning_rate(lr.base, lr.rule, course.batch, course.first, done - course.changed, lr.warmup_steps)


def course_from(fields: Mapping[str, Json], where: str) -> Course:
    """What ``to_json`` gave. Raises BadInputError naming ``where``."""
    numbers = {name: fields.get(name) for name in ("size", "first", "batch", "changed")}
    for name, value in numbers.items():
        if type(value) is not int or value < (0 if name == "changed" else 1):
            raise BadInputError(f"{value!r} cannot be", where=f"{where}: {name}")
    return Course(**numbers)  # type: ignore[arg-type]  # each was found to be a whole number
