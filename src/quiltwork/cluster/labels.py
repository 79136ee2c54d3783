"""What a trace does not tell of its jobs, set by rules that anyone can apply again.

A job's draws (``u_fungible`` and the like) are hashes of its id: a label hangs on nothing but the trace and the rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from quiltwork.cluster.curves import MODELS, model_of
from quiltwork.cluster.job_trace import Ints, JobTrace, draw
from quiltwork.core.errors import BadInputError

Bools = npt.NDArray[np.bool_]
ElasticRule = Literal["none", "most-gpu-time", "large-and-long", "drawn"]
ELASTIC_RULES: tuple[ElasticRule, ...] = ("none", "most-gpu-time", "large-and-long", "drawn")
LONG_ENOUGH_S = 600.0
LARGE_GPUS, LONG_S = 8, 3600.0


@dataclass(frozen=True)
class LabelRules:
    """Which jobs can do what: shares are thresholds on the jobs' draws, from 0 to 1."""

    fungible: float = 0.21
    """May run on either GPU type: ``u_fungible`` below this."""
    hetero: float = 1.0
    """May mix GPU types in one run: ``u_hetero`` below this."""
    checkpointed: float = 0.0
    """Go on after a preemption: ``u_ckpt`` below this."""
    elastic: ElasticRule = "most-gpu-time"
    """``most-gpu-time``: of the jobs over 10 minutes, those with most GPU time, ``elastic_share`` of all jobs;
    ``large-and-long``: 8 GPUs and more for over an hour; ``drawn``: ``u_elastic`` below ``elastic_share``; ``none``."""
    elastic_share: float = 0.05
    stretch: int = 2
    """An elastic job may have up to so many times the workers that it asked for."""

    def __post_init__(self) -> None:
        for name in ("fungible", "hetero", "checkpointed", "elastic_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise BadInputError(f"{value!r} is not a share from 0 to 1", where=f"labels: {name}")
        if self.elastic not in ELASTIC_RULES:
            hint = f"one of {', '.join(ELASTIC_RULES)}"
            raise BadInputError(f"{self.elastic!r} is not a rule", where="labels: elastic", hint=hint)
        if self.stretch < 1:
            raise BadInputError(f"{self.stretch!r} is less than 1", where="labels: stretch")


@dataclass(frozen=True, eq=False)
class Labels:
    """What each job of a trace can do: (n,) each, in the trace's order."""

    fungible: Bools
    hetero: Bools
    checkpointed: Bools
    elastic: Bools
    w_min: Ints
    """Workers of one GPU each that it must have: what it asked for."""
    w_max: Ints
    """Workers that it can use: ``w_min`` unless it is elastic."""
    model: npt.NDArray[np.int8]
    """Index into ``curves.MODELS`` of the model whose speed curve an elastic job has; -1 for others."""


def label(trace: JobTrace, rules: LabelRules | None = None) -> Labels:
    """Every job's labels. Draws that the trace does not hold are made from the jobs' ids, as those of any trace are."""
    rules = LabelRules() if rules is None else rules
    elastic = _elastic(trace, rules)
    model = np.full(len(trace), -1, dtype=np.int8)
    for index in np.flatnonzero(elastic):
        model[index] = MODELS.index(model_of(str(trace.ids[index])))
    return Labels(
        fungible=_below(trace, "fungible", rules.fungible),
        hetero=_below(trace, "hetero", rules.hetero),
        checkpointed=_below(trace, "ckpt", rules.checkpointed),
        elastic=elastic,
        w_min=trace.gpus,
        w_max=np.where(elastic, trace.gpus * rules.stretch, trace.gpus),
        model=model,
    )


def _elastic(trace: JobTrace, rules: LabelRules) -> Bools:
    if rules.elastic == "drawn":
        return _below(trace, "elastic", rules.elastic_share)
    if rules.elastic == "large-and-long":
        return (trace.gpus >= LARGE_GPUS) & (trace.duration_s > LONG_S)
    chosen = np.zeros(len(trace), dtype=np.bool_)
    if rules.elastic == "most-gpu-time":
        gpu_time = np.where(trace.duration_s > LONG_ENOUGH_S, trace.gpus * trace.duration_s, 0.0)
        most = np.argsort(-gpu_time, kind="stable")[: round(rules.elastic_share * len(trace))]
        chosen[most] = gpu_time[most] > 0
    return chosen


def _below(trace: JobTrace, name: str, share: float) -> Bools:
    if share in (0, 1):
        return np.full(len(trace), share == 1)
    drawn = trace.draws.get(name)
    if drawn is None:
        drawn = np.fromiter((draw(name, str(job_id)) for job_id in trace.ids), np.float64, len(trace))
    return drawn < share
