"""Jobs of a trace and their labels, made into what the scheduler schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quiltwork.cluster.job import Job
from quiltwork.cluster.job_trace import JobTrace
from quiltwork.cluster.labels import Labels
from quiltwork.cluster.server import Pool, Server
from quiltwork.cluster.speed import MIXED_EFFICIENCY, Speed, linear
from quiltwork.core.errors import BadInputError


def jobs_of(
    trace: JobTrace,
    labels: Labels,
    capability: Mapping[str, float],
    *,
    reference: str | None = None,
    curves: Sequence[Mapping[str, Sequence[float]]] | None = None,
    believed_s: Sequence[float | None] | None = None,
    mixing: float = MIXED_EFFICIENCY,
    checkpoint_s: float = 600.0,
) -> list[Job]:
    """The jobs of a trace in its order, one GPU per worker.

    capability : one worker's speed by GPU type. reference : the type that the trace ran on; the fastest where None.
    curves : measured speeds by GPU type for 1, 2, 3 ... workers, in the units of ``capability``, in the order that
    ``labels.model`` counts them; without them, and for jobs without a model, every worker adds as much as the first.
    believed_s : the running time that is thought of each job before it has run; the true one where it is left out.
    checkpoint_s : between the checkpoints of those that take any.

    Work is what the trace's GPUs did in the trace's time: a job that gets what it asked for takes as long as there.
    """
    if not capability:
        raise BadInputError("no GPU type", where="capability")
    if reference is None:
        reference = max(capability, key=lambda t: capability[t])
    elif reference not in capability:
        raise BadInputError(f"{reference!r} is not one of {', '.join(capability)}", where="reference")
    for name, given in (("labels", labels.w_min), ("believed_s", trace.ids if believed_s is None else believed_s)):
        if len(given) != len(trace):
            raise BadInputError(f"{len(given)} of them for {len(trace)} jobs", where=name)
    line = linear(capability, int(labels.w_max.max(initial=1)), mixing)
    measured = [Speed({t: tuple(curve[t]) for t in sorted(curve)}, mixing) for curve in curves or ()]
    columns = zip(
        trace.ids.tolist(),
        trace.submit_s.tolist(),
        trace.duration_s.tolist(),
        trace.team.tolist(),
        labels.w_min.tolist(),
        labels.w_max.tolist(),
        labels.model.tolist(),
        labels.fungible.tolist(),
        labels.hetero.tolist(),
        labels.checkpointed.tolist(),
        trace.duration_s.tolist() if believed_s is None else believed_s,
        strict=True,
    )
    jobs = []
    for name, submit_s, duration_s, team, w_min, w_max, model, fungible, hetero, checkpointed, thought in columns:
        speed = measured[model] if measured and model >= 0 else line
        pace = speed.on(reference, w_min)
        jobs.append(
            Job(
                name,
                submit_s,
                duration_s * pace,
                speed,
                w_min=w_min,
                w_max=w_max,
                believed=None if thought is None else thought * pace,
                fungible=fungible,
                hetero=w_max > w_min and hetero,
                checkpoint_s=checkpoint_s if checkpointed else None,
                team=trace.teams[team],
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
