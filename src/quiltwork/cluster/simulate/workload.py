"""Jobs of a trace and their labels, made into what the scheduler schedules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from quiltwork.cluster.job import Job
from quiltwork.cluster.server import Pool, Server
from quiltwork.cluster.speed import MIXED_EFFICIENCY, Speed
from quiltwork.core.errors import BadInputError


class Traced(Protocol):
    """A job as a trace tells of it: ``duration_s`` is how long it ran on ``gpus``."""

    @property
    def id(self) -> str: ...
    @property
    def submit_s(self) -> float: ...
    @property
    def gpus(self) -> int: ...
    @property
    def duration_s(self) -> float: ...
    @property
    def team(self) -> str: ...


class Flags(Protocol):
    """Yes or no for each job."""

    def __getitem__(self, index: int, /) -> object: ...


class Numbers(Protocol):
    """A whole number for each job."""

    def __getitem__(self, index: int, /) -> int: ...


class Labelled(Protocol):
    """What a trace does not tell of its jobs, in their order. ``model`` : which of the measured speed curves a job has;
    -1 for none."""

    @property
    def fungible(self) -> Flags: ...
    @property
    def hetero(self) -> Flags: ...
    @property
    def checkpointed(self) -> Flags: ...
    @property
    def w_min(self) -> Numbers: ...
    @property
    def w_max(self) -> Numbers: ...
    @property
    def model(self) -> Numbers: ...


def jobs_of(
    trace: Iterable[Traced],
    labels: Labelled,
    capability: Mapping[str, float],
    *,
    curves: Sequence[Mapping[str, Sequence[float]]] | None = None,
    believed_s: Sequence[float | None] | None = None,
    mixing: float = MIXED_EFFICIENCY,
    checkpoint_s: float = 600.0,
) -> list[Job]:
    """The jobs of a trace in its order, one GPU per worker.

    capability : one worker's speed by GPU type; the trace ran on the type where that is greatest. curves : measured
    speeds by GPU type for 1, 2, 3 ... workers, in the units of ``capability``; without them, and for jobs without a
    model, every worker adds as much as the first. believed_s : the running time that is thought of each job before it
    has run; the true one where it is left out. checkpoint_s : between the checkpoints of those that take any.

    Work is what the trace's GPUs did in the trace's time: a job that gets what it asked for takes as long as there.
    """
    traced = list(trace)
    if not capability:
        raise BadInputError("no GPU type", where="capability")
    reference = max(capability, key=lambda t: capability[t])
    most = max((int(labels.w_max[i]) for i in range(len(traced))), default=1)
    line = Speed({t: tuple(c * n for n in range(1, most + 1)) for t, c in capability.items()}, mixing)
    measured = [Speed({t: tuple(curve[t]) for t in sorted(curve)}, mixing) for curve in curves or ()]
    jobs = []
    for i, job in enumerate(traced):
        if not job.duration_s >= 0:
            raise BadInputError(f"ran for {job.duration_s} s", where=f"job {job.id}")
        speed = measured[labels.model[i]] if measured and labels.model[i] >= 0 else line
        w_min, w_max = int(labels.w_min[i]), int(labels.w_max[i])
        pace = speed.on(reference, w_min)
        thought = job.duration_s if believed_s is None else believed_s[i]
        jobs.append(
            Job(
                job.id,
                job.submit_s,
                job.duration_s * pace,
                speed,
                w_min=w_min,
                w_max=w_max,
                believed=None if thought is None else thought * pace,
                fungible=bool(labels.fungible[i]),
                hetero=w_max > w_min and bool(labels.hetero[i]),
                checkpoint_s=checkpoint_s if labels.checkpointed[i] else None,
                team=job.team,
            )
        )
    return jobs


def two_clusters(train: int, infer: int, *, gpus: int = 8, types: tuple[str, str] = ("V100", "T4")) -> list[Server]:
    """Training's servers and inference's, each of one GPU type."""
    if train < 1 or infer < 0:
        raise BadInputError(f"{train} training and {infer} inference servers", where="servers")
    return [Server(f"train-{i}", types[0], gpus, Pool.TRAIN) for i in range(train)] + [
        Server(f"infer-{i}", types[1], gpus, Pool.INFER) for i in range(infer)
    ]
