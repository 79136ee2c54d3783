"""The seam between what trains and what runs training: resumable by default, elastic where gradients average."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from quiltwork.core.servable import Json

Arrays = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class State:
    """All that is needed to go on: named arrays plus JSON. No pickle. The data position is part of it.

    bfloat16 arrays travel as uint16 and are named in ``meta["bfloat16"]``, since numpy has no such type.
    """

    arrays: Arrays
    meta: Mapping[str, Json]


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

    For any split of ``sample_ids`` among workers, ``apply`` of the count-weighted mean of their ``gradients`` is the
    same step up to rounding. A particle optimiser or a word-vector trainer is resumable but not elastic.
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
