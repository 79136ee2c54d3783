"""A trace of training jobs: when they were submitted, how many GPUs they had, how long they ran.

Kept by column, so that ten million jobs fit in memory; a job is looked at one at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, overload

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TraceJob:
    """One job of a trace."""

    id: str
    submit_s: float
    gpus: int
    duration_s: float
    """Time that it ran on its GPUs, without waiting."""
    team: str = ""
    draws: Mapping[str, float] = field(default_factory=dict)
    """Numbers of [0, 1) that came with the trace, by name (``fungible``): see ``labels``."""


def draw(name: str, job_id: str) -> float:
    """The number of [0, 1) that belongs to a job under a name: BLAKE2b of ``name:job_id``, the same everywhere."""
    digest = hashlib.blake2b(f"{name}:{job_id}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53


@dataclass(frozen=True, eq=False)
class JobTrace(Sequence[TraceJob]):
    """Jobs in the order of their submission, by column: (n,) each."""

    ids: npt.NDArray[Any]
    """Strings, no two alike."""
    submit_s: Floats
    """Seconds, never falling."""
    gpus: Ints
    """At least 1."""
    duration_s: Floats
    """Above 0."""
    teams: tuple[str, ...]
    team: npt.NDArray[np.int32]
    """Index into ``teams``."""
    draws: Mapping[str, Floats]
    started: datetime | None = None
    """When second 0 was, where the trace tells."""
    notes: tuple[str, ...] = ()
    """What a reader should know: rows that were left out or sorted."""

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> TraceJob: ...
    @overload
    def __getitem__(self, index: slice) -> JobTrace: ...
    def __getitem__(self, index: int | slice) -> TraceJob | JobTrace:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return TraceJob(
            str(self.ids[index]),
            float(self.submit_s[index]),
            int(self.gpus[index]),
            float(self.duration_s[index]),
            self.teams[self.team[index]],
            {name: float(values[index]) for name, values in self.draws.items()},
        )

    def __iter__(self) -> Iterator[TraceJob]:
        return (self[index] for index in range(len(self)))

    def take(self, which: npt.NDArray[Any]) -> JobTrace:
        """The jobs at some positions, or where a mask is true; times stay as they are."""
        return replace(
            self,
            ids=self.ids[which],
            submit_s=self.submit_s[which],
            gpus=self.gpus[which],
            duration_s=self.duration_s[which],
            team=self.team[which],
            draws={name: values[which] for name, values in self.draws.items()},
        )
