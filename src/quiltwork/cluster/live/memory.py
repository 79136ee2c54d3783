"""What a controller must not forget, as it sees it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from quiltwork.cluster.live.entries import Entry, Worker
from quiltwork.cluster.log import Row
from quiltwork.cluster.server import Server


@dataclass(frozen=True)
class Recalled:
    """What was written down: the log begins with a row for each server."""

    servers: Sequence[Server]
    rows: Sequence[Row]
    entries: Sequence[Entry]
    workers: Sequence[Worker]


class Memory(Protocol):
    """Every call is one transaction: when it returns, it is kept; where it raises QuiltworkError, nothing is."""

    def recall(self, servers: Sequence[Server]) -> Recalled:
        """What was written down before; of a new cluster, its servers."""
        ...

    def append(self, rows: Sequence[Row], entries: Iterable[Entry], gone: Iterable[str] = ()) -> None:
        """Decisions, the jobs that changed, and workers of which nothing is left."""
        ...

    def keep_workers(self, workers: Iterable[Worker], entry: Entry | None = None) -> None:
        """Workers, and the job that counts them."""
        ...

    def move(self, server: str, *, to_training: bool) -> None:
        """From one whitelist to the other; nothing where it is there."""
        ...

    def remember(self, request: str, job: str) -> None:
        """The job that a client's request led to."""
        ...

    def job_of(self, request: str) -> str | None: ...
