"""The rules by which a cluster is run, each a named option, and the sets of them that have names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from quiltwork.core.errors import BadInputError


class Order(StrEnum):
    """Which waiting job is thought of first."""

    FIFO = "fifo"
    SJF = "sjf"
    """The shortest believed running time at ``w_min`` workers."""
    SRTF = "srtf"
    """The shortest remaining time; running jobs with more left are preempted for it."""
    LAS = "las"
    """The least attained service, in levels; running jobs of a higher level are preempted for it (Tiresias)."""


class Elastic(StrEnum):
    """How flexible demand is met."""

    NONE = "none"
    MARGINAL = "marginal"
    """By marginal gain along upper hulls."""
    EXACT = "exact"
    """By dynamic programming, as the paper does."""
    GANDIVA = "gandiva"
    """Grow whoever can while nobody waits; shrink all to their base when somebody does."""
    AFS = "afs"
    """GPU by GPU, weighing relative gain against the length of what remains."""
    GOODPUT = "goodput"
    """GPU by GPU to whom it speeds up most, by the harmonic mean of all speed-ups."""


class BaseOn(StrEnum):
    """Where base demand of jobs that may run on lent servers goes first."""

    TRAINING = "training"
    LENT = "lent"


class FlexOn(StrEnum):
    """Where flexible demand goes first."""

    FASTEST = "fastest"
    """Idle fast GPUs, then slow ones, and slow ones only for what they add."""
    LENT = "lent"


class Cost(StrEnum):
    """What emptying a lent server is taken to cost."""

    EMPTIED = "emptied"
    """Jobs preempted per server that is newly emptied."""
    SERVER_FRACTION = "server_fraction"
    """The sum over its jobs of 1 / servers that the job is on (the paper's)."""
    GPU_FRACTION = "gpu_fraction"
    """The sum over its jobs of the share of the job's GPUs that is on it."""
    WORK = "work"
    """As ``EMPTIED``, each job weighing the GPU time that stopping it throws away."""
    COUNT = "count"
    """Its jobs."""
    RANDOM = "random"


@dataclass(frozen=True)
class Rules:
    """Every choice that the scheduler makes by rule.

    ``backfill_depth`` : jobs that may be passed over because they do not fit; None for any number. ``ageing`` : seconds
    of running time that a second of waiting makes up for. ``starvation_s`` : a job that waited so long per worker
    gets a reservation, that no younger job may delay; None for never. ``stickiness`` : how much better a
    flexible worker must do elsewhere before it is moved. ``loaning`` : whether idle inference servers are lent.
    ``group_lent`` : base and flexible workers on lent servers of their own. ``headroom`` : share of inference's
    servers that is kept beyond its need. ``hysteresis`` : share of them that has to be idle beyond that to be lent.
    ``min_lease_s`` : as long must the need have been low before a server is lent. ``polish_s`` : seconds
    that CP-SAT may look for a better set of servers to empty; 0 for none. ``min_run_s`` : a job that runs for less is
    not preempted by another. ``service_levels`` : GPU-seconds at which a job's attained service
    takes it to the next level; ``service_every_s`` : levels are looked at so often. ``quotas`` : GPUs of training's
    that each team is guaranteed (``policy/quotas.py``); what one leaves idle others borrow. Empty where nobody is.
    """

    order: Order = Order.SJF
    backfill_depth: int | None = None
    ageing: float = 0.0
    starvation_s: float | None = None
    elastic: Elastic = Elastic.NONE
    stickiness: float = 0.1
    base_on: BaseOn = BaseOn.TRAINING
    flex_on: FlexOn = FlexOn.FASTEST
    group_lent: bool = True
    loaning: bool = False
    headroom: float = 0.02
    hysteresis: float = 0.02
    min_lease_s: float = 900.0
    reclaim: Cost = Cost.EMPTIED
    polish_s: float = 0.0
    min_run_s: float = 0.0
    service_levels: tuple[float, ...] = (3250.0, 7200.0, 18_000.0)
    service_every_s: float = 60.0
    quotas: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("ageing", "stickiness", "headroom", "hysteresis", "min_lease_s", "polish_s", "min_run_s"):
            if not getattr(self, name) >= 0:
                raise BadInputError(f"{getattr(self, name)} is less than 0", where=name)
        if self.backfill_depth is not None and self.backfill_depth < 0:
            raise BadInputError(f"{self.backfill_depth} is less than 0", where="backfill_depth")
        if self.headroom + self.hysteresis >= 1:
            raise BadInputError("headroom and hysteresis leave nothing to lend", where="headroom")
        for team, gpus in self.quotas.items():
            if type(gpus) is not int or gpus < 0:
                raise BadInputError(f"{gpus!r} is not a number of GPUs", where=f"quotas: {team}")


POLICIES: dict[str, Rules] = {
    "fifo": Rules(Order.FIFO, backfill_depth=0),
    "sjf": Rules(),
    "srtf": Rules(Order.SRTF),
    "fifo+loan": Rules(Order.FIFO, backfill_depth=0, loaning=True),
    "sjf+loan": Rules(loaning=True),
    "elastic": Rules(elastic=Elastic.MARGINAL),
    "lyra": Rules(elastic=Elastic.MARGINAL, loaning=True),
    "lyra-paper": Rules(
        elastic=Elastic.EXACT,
        loaning=True,
        base_on=BaseOn.LENT,
        flex_on=FlexOn.LENT,
        reclaim=Cost.SERVER_FRACTION,
        stickiness=0.0,
        hysteresis=0.0,
        min_lease_s=0.0,
    ),
    "opportunistic": Rules(
        Order.FIFO,
        backfill_depth=0,
        loaning=True,
        base_on=BaseOn.LENT,
        group_lent=False,
        reclaim=Cost.RANDOM,
        hysteresis=0.0,
        min_lease_s=0.0,
    ),
    "gandiva": Rules(Order.FIFO, backfill_depth=0, elastic=Elastic.GANDIVA),
    "tiresias-like": Rules(Order.LAS),
    "afs-like": Rules(elastic=Elastic.AFS),
    "pollux-like": Rules(Order.FIFO, elastic=Elastic.GOODPUT),
}
"""Sets of rules by name. Those of other systems are ours, after their papers: "-like" says so."""
POLICIES["aryl"] = POLICIES["lyra"]


def rules_named(name: str, **changes: object) -> Rules:
    """A named set with some options changed. Raises BadInputError for a name that is not one."""
    if name not in POLICIES:
        raise BadInputError(f"{name!r} is not one of {', '.join(POLICIES)}", where="policy")
    return replace(POLICIES[name], **changes)  # type: ignore[arg-type]
