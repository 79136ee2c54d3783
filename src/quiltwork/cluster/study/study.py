"""What a simulation is asked: which jobs, which servers, and what is assumed of both. All arms have it in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from quiltwork.cluster.curves import MODELS, Curve
from quiltwork.cluster.demand import Demand
from quiltwork.cluster.job import Job
from quiltwork.cluster.job_trace import JobTrace
from quiltwork.cluster.labels import LabelRules, label
from quiltwork.cluster.server import Server
from quiltwork.cluster.simulate.settings import Settings
from quiltwork.cluster.simulate.workload import jobs_of
from quiltwork.cluster.study.arms import Arm
from quiltwork.cluster.study.fleet import Fleet
from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json

Estimates = Literal["oracle", "learned", "none"]
ESTIMATES: tuple[Estimates, ...] = ("oracle", "learned", "none")
LONGEST_S = 10 * 365 * 86_400.0
"""Ten years: no job runs so long, and no trace is so long, unless its times are in another unit than is thought."""


@dataclass(frozen=True)
class Study:
    """A trace on a fleet.

    ``demand`` : what inference needs; without it nothing is lent. ``curves`` : measured speeds by model
    (``read_sia_curves``), for elastic jobs; without them every worker adds as much as the first. ``mixing`` : the share
    that is left of a run over several GPU types. ``checkpoint_s`` : between checkpoints, of the jobs that take any.
    ``estimates`` : what is thought of a job's running time when it comes: the truth (``oracle``), what jobs that ended
    before teach (``learned``), or nothing. ``seed`` : of random choices. ``days`` : for which usage is told.
    ``skip_too_large`` : leave out jobs that training's servers cannot hold, instead of refusing them.
    """

    trace: JobTrace
    fleet: Fleet
    demand: Demand | None = None
    labels: LabelRules = field(default_factory=LabelRules)
    curves: Mapping[str, Curve] | None = None
    mixing: float = 1.0
    checkpoint_s: float = 600.0
    estimates: Estimates = "oracle"
    seed: int = 0
    days: float = 15.0
    skip_too_large: bool = False

    def __post_init__(self) -> None:
        if self.estimates not in ESTIMATES:
            hint = f"one of {', '.join(ESTIMATES)}"
            raise BadInputError(f"{self.estimates!r} is no way to estimate", where="estimates", hint=hint)
        if not 0 < self.mixing <= 1:
            raise BadInputError(f"{self.mixing} is not a share above 0", where="mixing")
        for name in ("checkpoint_s", "days"):
            if not 0 < getattr(self, name) <= LONGEST_S:
                raise BadInputError(f"{getattr(self, name)} is not a length of time", where=name.removesuffix("_s"))
        if self.demand is not None and not self.fleet.infer:
            raise BadInputError("inference's need is given, but it has no servers", where="infer")

    def document(self) -> dict[str, Json]:
        """What was assumed, as JSON."""
        fleet = self.fleet
        return {
            "jobs": len(self.trace),
            "train": fleet.train,
            "infer": fleet.infer,
            "gpus_per_server": fleet.gpus_per_server,
            "types": list(fleet.types),
            "capability": {t: fleet.capability[t] for t in dict.fromkeys(fleet.types)},
            "labels": dict(vars(self.labels)),
            "speed": "linear" if self.curves is None else "measured",
            "mixing": self.mixing,
            "checkpoint_s": self.checkpoint_s,
            "estimates": self.estimates,
            "days": self.days,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class World:
    """A study made ready: everything that ``simulate`` takes but the rules."""

    trace: JobTrace
    """The jobs that are simulated."""
    servers: list[Server]
    jobs: list[Job]
    need: list[float] | None
    settings: Settings
    notes: tuple[str, ...]
    """What a reader should know."""

    def settings_with(self, arm: Arm, demand: Demand | None) -> tuple[Settings, list[float] | None]:
        """The settings as an arm has them, and the need at the times at which loans are then decided."""
        settings = arm.settings_of(self.settings)
        if settings.loans_every_s == self.settings.loans_every_s:
            return settings, self.need
        return settings, need_of(demand, settings.loans_every_s)


def world_of(study: Study) -> World:
    """Raises BadInputError for a job or a length of time that cannot be, naming the job."""
    trace, notes = fitting(study.trace, study.fleet.training_gpus, skip=study.skip_too_large)
    _refuse_absurd(trace)
    settings = Settings(gpu_types=study.fleet.gpu_types, seed=study.seed)
    return World(
        trace,
        study.fleet.servers(),
        _jobs(study, trace),
        need_of(study.demand, settings.loans_every_s),
        settings,
        (*trace.notes, *notes, *_about_loans(study)),
    )


def fitting(trace: JobTrace, gpus: int, *, skip: bool) -> tuple[JobTrace, tuple[str, ...]]:
    """The jobs that so many GPUs can hold. Raises BadInputError for one that they cannot, unless such are skipped."""
    large = trace.gpus > gpus
    count = int(np.count_nonzero(large))
    if not count:
        return trace, ()
    first = trace[int(np.argmax(large))]
    if not skip:
        more = f"; so do {count - 1:,} more" if count > 1 else ""
        raise BadInputError(
            f"asks for {first.gpus:,} GPUs, more than the {gpus:,} of training's servers{more}",
            where=f"job {first.id}",
            hint="more servers, or --skip-too-large to leave such jobs out",
        )
    if count == len(trace):
        raise BadInputError(f"no job asks for at most {gpus:,} GPUs, which training's servers have", where="jobs")
    what = "jobs that ask" if count > 1 else "job that asks"
    return trace.take(~large), (f"left out: {count:,} {what} for more than {gpus:,} GPUs (job {first.id} first)",)


def need_of(demand: Demand | None, every_s: float) -> list[float] | None:
    """The share of inference's servers that is needed whenever loans are decided, until the demand's end."""
    if demand is None:
        return None
    last = float(demand.t_s[-1])
    step = last - float(demand.t_s[-2]) if len(demand) > 1 else every_s
    first = float(demand.t_s[0])
    points = max(1, round((last + step - first) / every_s))
    return [demand.at(first + every_s * n) for n in range(points)]


def _jobs(study: Study, trace: JobTrace) -> list[Job]:
    fleet = study.fleet
    training = fleet.types[0]
    curves = None
    if study.curves is not None:
        # In the units of a worker on training's type, as all else is.
        curves = [
            {t: [speed / study.curves[model][training][0] for speed in study.curves[model][t]] for t in fleet.gpu_types}
            for model in MODELS
        ]
    return jobs_of(
        trace,
        label(trace, study.labels),
        fleet.relative,
        reference=training,
        curves=curves,
        believed_s=_believed(study, trace),
        mixing=study.mixing,
        checkpoint_s=study.checkpoint_s,
    )


def _believed(study: Study, trace: JobTrace) -> Sequence[float | None] | None:
    if study.estimates == "oracle":
        return None
    if study.estimates == "none":
        return [None] * len(trace)
    from quiltwork.cluster.estimate.durations import WIDEST
    from quiltwork.cluster.estimate.replaying import replay

    made = replay(trace, seed=study.seed)
    tells = (np.array(made.sources) != "none") & (made.high <= WIDEST * made.low)
    return [median if told else None for median, told in zip(made.median.tolist(), tells.tolist(), strict=True)]


def _refuse_absurd(trace: JobTrace) -> None:
    for name, values in (("ran for", trace.duration_s), ("was submitted after", trace.submit_s - trace.submit_s[0])):
        wrong = ~(values <= LONGEST_S)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise BadInputError(f"{name} {values[at]:g} s, over ten years", where=f"job {trace.ids[at]}",
                                hint="are the times in another unit? --columns unit=ms")  # fmt: skip


def _about_loans(study: Study) -> tuple[str, ...]:
    if study.fleet.infer and study.demand is None:
        return ("nothing is lent: what inference needs is not given",)
    return ()
