"""What a simulated cluster is like, beside the rules by which it is run."""

from __future__ import annotations

from dataclasses import dataclass, field

from quiltwork.cluster.forecast import check_forecast
from quiltwork.cluster.running import Delays
from quiltwork.core.errors import BadInputError


@dataclass(frozen=True)
class Settings:
    """``gpu_types`` : the fastest first. ``delays`` : what changes cost. ``return_s`` : from the decision to ask a
    server back until inference has it. ``loans_every_s`` : loans are decided so often. ``share_every_s`` : flexible
    demand is divided anew no more often. ``forecast`` : of what inference needs, by name. ``seed`` : of random
    reclaiming.
    """

    gpu_types: tuple[str, ...] = ("V100", "T4")
    delays: Delays = field(default_factory=Delays)
    return_s: float = 0.0
    loans_every_s: float = 300.0
    share_every_s: float = 60.0
    forecast: str = "persistent"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("return_s", "loans_every_s", "share_every_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise BadInputError(f"{getattr(self, name)} is not a number of seconds", where=name)
        check_forecast(self.forecast)
        if not self.loans_every_s:
            raise BadInputError("loans cannot be decided all the time", where="loans_every_s")
        if len(set(self.gpu_types)) != len(self.gpu_types) or not self.gpu_types:
            raise BadInputError("each type once, the fastest first", where="gpu_types")
