"""The seam between what trains and what runs training: resumable by default, elastic where gradients average."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json

Arrays = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class State:
    """All that is needed to go on: named arrays plus JSON. No pickle. The data position is part of it.

    bfloat16 arrays travel as uint16 and are named in ``meta["bfloat16"]``, since numpy has no such type. Raises
    BadInputError naming an array that holds objects, or where ``meta`` is not JSON.
    """

    arrays: Arrays
    meta: Mapping[str, Json]

    def __post_init__(self) -> None:
        for name, array in self.arrays.items():
            if not isinstance(array, np.ndarray) or array.dtype.hasobject:
                raise BadInputError("is not an array of numbers", where=f"state: {name}")
        try:
            json.dumps(dict(self.meta), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise BadInputError(f"is not JSON: {error}", where="state: meta") from error


@dataclass(frozen=True)
class StepReport:
    """What one step did."""

    done: int
    """Steps done since the very beginning, resumptions included."""
    total: int | None
    """Steps in all, or None where the trainable stops by its own criterion."""
    finished: bool
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Setup:
    """What a trainable is handed: nothing it uses comes from anywhere else."""

    config: Mapping[str, Json]
    seed: int
    device: str = "cpu"
    workdir: str | None = None
    """A folder for scratch files, or None if it may write nothing."""


@runtime_checkable
class Trainable(Protocol):
    """Anything that learns in steps and can be stopped and resumed at any of them.

    ``setup(s); load_state_dict(state)`` continues exactly where ``state`` was taken: the following steps give the
    same state as if there had been no interruption.
    """

    def setup(self, setup: Setup) -> None:
        """Build model, data and optimiser. Raises BadInputError naming the field of ``config`` that is wrong."""
        ...

    def step(self) -> StepReport:
        """Do one step. After ``finished`` further calls change nothing."""
        ...

    def state_dict(self) -> State:
        """The state between two steps; a copy, safe to keep while training goes on."""
        ...

    def load_state_dict(self, state: State) -> None:
        """Go on from ``state``. Raises BadInputError where it does not fit this set-up."""
        ...


@dataclass(frozen=True)
class Gradients:
    """The mean gradient over ``count`` samples, by parameter name."""

    arrays: Arrays
    count: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Elastic(Trainable, Protocol):
    """A trainable whose step is a mean over samples, so that any number of workers can share one step.

    ``step()`` is ``apply(gradients(next_samples()))``, and for any split of the ids among workers ``apply`` of the
    ``mean_of`` their gradients is the same step up to rounding. What is random about a sample (dropout, augmentation)
    therefore hangs on its id and the step, never on the worker. A particle optimiser or a word-vector trainer is
    resumable but not elastic.
    """

    def next_samples(self) -> npt.NDArray[np.int64]:
        """The sample ids of the next step (n,), the same on every worker."""
        ...

    def gradients(self, sample_ids: npt.NDArray[np.int64]) -> Gradients:
        """Mean gradient over the given samples; changes nothing."""
        ...

    def apply(self, mean: Gradients) -> StepReport:
        """Take the step with the mean over all workers."""
        ...

    def resize(self, rank: int, workers: int) -> None:
        """Be told the new worker count, between two steps."""
        ...


@runtime_checkable
class Tunable(Elastic, Protocol):
    """An elastic trainable whose batch and learning rate are set from outside, between two steps.

    Needed only where a job's batch is to grow with its workers, or where its batch or learning rate is given by whoever
    runs it. What was set holds until it is set again; it is told anew after ``load_state_dict``.
    """

    def set_batch(self, samples: int) -> None:
        """``next_samples`` gives this many ids from now on, and neither repeats nor skips one because of the change.

        Hence the position in the data is kept as the number of samples taken, not of steps (``core.sample_order``).
        """
        ...

    def set_learning_rate(self, rate: float) -> None:
        """The rate of the following steps; one that a schedule of the trainable's own, if it has one, multiplies."""
        ...


def mean_of(parts: Sequence[Gradients]) -> Gradients:
    """The count-weighted mean of workers' gradients and metrics, in the order given, summed in float64.

    A worker that had no samples (count 0) adds nothing. Raises BadInputError where all had none, or where names or
    shapes differ.
    """
    taking = [part for part in parts if part.count > 0]
    if not taking or any(part.count < 0 for part in parts):
        raise BadInputError("there is nothing to take the mean of", where="gradients")
    names = set(taking[0].arrays)
    if any(set(part.arrays) != names for part in taking):
        raise BadInputError("workers name different parameters", where="gradients")
    total = sum(part.count for part in taking)
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for name, first in taking[0].arrays.items():
        if any(part.arrays[name].shape != first.shape for part in taking):
            raise BadInputError("workers have different shapes", where=f"gradients: {name}")
        mean = sum(part.arrays[name].astype(np.float64) * (part.count / total) for part in taking)
        arrays[name] = np.asarray(mean).astype(first.dtype)
    told = set.intersection(*(set(part.metrics) for part in taking))
    metrics = {name: math.fsum(part.metrics[name] * part.count for part in taking) / total for name in sorted(told)}
    return Gradients(arrays, total, metrics)
