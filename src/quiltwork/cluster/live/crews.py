"""The elastic workers' end of the line, as the controller sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Stepped:
    """A job's workers have done a step. total : in all, None where nobody knows."""

    job: str
    done: int
    total: int | None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """All that there was to do is done and written; the workers end."""

    job: str


@dataclass(frozen=True)
class Failed:
    """A job's own code raised an error: one line of it."""

    job: str
    what: str


Report = Stepped | Finished | Failed


class Crews(Protocol):
    """The workers of elastic jobs, by job."""

    def want(self, job: str, members: Sequence[str]) -> None:
        """These workers, in this order, compute from the next step on that all of them can take; others may end."""
        ...

    def forget(self, job: str) -> None:
        """A job has no workers any more."""
        ...

    def reports(self) -> list[Report]:
        """What was said since the last call."""
        ...
