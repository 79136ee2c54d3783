"""Jobs of a trace, made into what the scheduler schedules: who is elastic, who may run where, how fast."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from quiltwork.cluster.job import Job
from quiltwork.cluster.server import Pool, Server
from quiltwork.cluster.speed import MIXED_EFFICIENCY, Speed
from quiltwork.core.errors import BadInputError


class Traced(Protocol):
    """A job as a trace tells of it. ``draws`` : numbers in [0, 1) that label it reproducibly."""

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
    @property
    def draws(self) -> Mapping[str, float]: ...


@dataclass(frozen=True)
class Labels:
    """Which jobs of a trace are what.

    ``fungible``, ``hetero``, ``checkpointed`` : the share of jobs, by the draws of those names. ``elastic_top`` : the
    share of jobs with most GPU time among those over ``elastic_over_s`` that are elastic; ``hetero`` counts for elastic
    jobs only. ``stretch`` : an elastic job may have up to so many times the workers that it asked for.
    """

    fungible: float = 0.21
    elastic_top: float = 0.05
    elastic_over_s: float = 600.0
    stretch: int = 2
    hetero: float = 1.0
    mixing: float = MIXED_EFFICIENCY
    checkpointed: float = 0.0
    checkpoint_s: float = 600.0


def elastic_by_gpu_time(jobs: Sequence[Traced], share: float, over_s: float) -> frozenset[str]:
    """The ids of the ``share`` of all jobs that have most GPU time among those that run for more than ``over_s``."""
    long = sorted((j for j in jobs if j.duration_s > over_s), key=lambda j: (-j.gpus * j.duration_s, j.id))
    return frozenset(j.id for j in long[: round(share * len(jobs))])


def jobs_of(
    trace: Iterable[Traced],
    capability: Mapping[str, float],
    labels: Labels | None = None,
    *,
    curves: Callable[[Traced], Mapping[str, Sequence[float]] | None] | None = None,
    believed: Callable[[Traced], float | None] | None = None,
) -> list[Job]:
    """The jobs of a trace by submission, one GPU per worker, with speeds that grow in a line unless measured.

    capability : one worker's speed by GPU type, 1 on the type that the trace ran on. curves : measured speeds of an
    elastic job in units of one worker on that type, by type, for 1, 2, 3 ... workers; None where there are none.
    believed : the running time in seconds that is thought before a job has run; the true one where None is handed in.
    Work is what the trace's GPUs did in the trace's time, so a job that gets what it asked for takes as long as there.
    """
    labels = labels or Labels()
    traced = sorted(trace, key=lambda j: j.submit_s)
    chosen = elastic_by_gpu_time(traced, labels.elastic_top, labels.elastic_over_s)
    most = max((j.gpus for j in traced), default=1) * labels.stretch
    reference = max(capability, key=lambda t: capability[t], default="")
    lines = Speed({t: tuple(c * n for n in range(1, most + 1)) for t, c in capability.items()}, labels.mixing)
    measured: dict[tuple[tuple[str, tuple[float, ...]], ...], Speed] = {}
    jobs = []
    for j in traced:
        if j.gpus < 1 or not j.duration_s >= 0:
            raise BadInputError(f"{j.gpus} GPUs for {j.duration_s} s", where=f"job {j.id}")
        elastic = j.id in chosen
        speed = lines
        found = curves(j) if curves is not None and elastic else None
        if found is not None:
            key = tuple((t, tuple(curve)) for t, curve in sorted(found.items()))
            speed = measured.setdefault(key, Speed(dict(key), labels.mixing))
        pace = speed.on(reference, j.gpus)
        thought = j.duration_s if believed is None else believed(j)
        jobs.append(
            Job(
                j.id,
                j.submit_s,
                j.duration_s * pace,
                speed,
                w_min=j.gpus,
                w_max=j.gpus * labels.stretch if elastic else j.gpus,
                believed=None if thought is None else thought * pace,
                fungible=j.draws.get("fungible", 1.0) < labels.fungible,
                hetero=elastic and j.draws.get("hetero", 0.0) < labels.hetero,
                checkpoint_s=labels.checkpoint_s if j.draws.get("ckpt", 1.0) < labels.checkpointed else None,
                team=j.team,
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
