"""How a live cluster is run, beside the rules of its decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from quiltwork.cluster.changes import NO_QUOTAS, changed, fields_of, policy_of
from quiltwork.cluster.curves import CAPABILITY
from quiltwork.cluster.forecast import check_forecast
from quiltwork.cluster.policy.rules import Rules, rules_named
from quiltwork.cluster.running import Delays
from quiltwork.core.errors import BadInputError


@dataclass(frozen=True)
class Settings:
    """``gpu_types`` : the fastest first; ``capability`` : one worker's speed on each, 1 where it is not said.
    ``loans_every_s`` : inference's need is looked at so often; ``forecast`` : of it, by name. ``return_s`` : from
    asking a server back until inference can serve with it, as is believed. ``share_every_s`` : flexible demand is
    divided anew no more often. ``progress_every_s`` : what a job says of its steps counts no more often. ``poll_s`` :
    as long may the loop wait for something to hear. ``retry_after_s`` : until a worker that a server refused is
    ordered again. ``silent_s`` : an elastic job of which no step was heard for so long is told about.
    """

    rules: Rules = field(default_factory=lambda: rules_named("lyra"))
    gpu_types: tuple[str, ...] = ("V100", "T4")
    capability: Mapping[str, float] = field(default_factory=lambda: dict(CAPABILITY))
    delays: Delays = field(default_factory=lambda: Delays(restart_s=10.0, pause_s=1.0, keep_on_stop=True))
    forecast: str = "rising"
    loans_every_s: float = 10.0
    return_s: float = 60.0
    share_every_s: float = 5.0
    progress_every_s: float = 10.0
    poll_s: float = 0.1
    retry_after_s: float = 2.0
    silent_s: float = 300.0

    def __post_init__(self) -> None:
        check_forecast(self.forecast)
        if not 0 <= self.return_s < float("inf"):
            raise BadInputError(f"{self.return_s} is not a number of seconds", where="return_s")
        for name in ("loans_every_s", "share_every_s", "progress_every_s", "poll_s", "retry_after_s", "silent_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise BadInputError(f"{getattr(self, name)} is not a number of seconds above 0", where=name)


def settings_of(
    policy: str, changes: Sequence[str] = (), quotas: Mapping[str, int] = NO_QUOTAS, *, gpu_types: tuple[str, ...]
) -> Settings:
    """A policy by name, as ``policy_of`` reads it with changes and quotas; changes are of Settings and Delays as well.

    Raises BadInputError naming what is known where a name is not.
    """
    rules, own = policy_of(policy, changes, quotas, _SETTINGS)
    try:
        return changed(Settings(rules=rules, gpu_types=gpu_types), own)
    except BadInputError as error:
        raise BadInputError(error.what, where=f"--set {error.where}", hint=error.hint) from error


_SETTINGS = fields_of(Settings, but=("rules", "gpu_types", "capability"))
