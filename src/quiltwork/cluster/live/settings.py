"""How a live cluster is run, beside the rules of its decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from quiltwork.cluster.curves import CAPABILITY
from quiltwork.cluster.forecast import rising
from quiltwork.cluster.policy.rules import Rules, rules_named
from quiltwork.cluster.running import Delays
from quiltwork.cluster.scheduler import Forecast
from quiltwork.core.errors import BadInputError


@dataclass(frozen=True)
class Settings:
    """``gpu_types`` : the fastest first; ``capability`` : one worker's speed on each, 1 where it is not said.
    ``loans_every_s`` : inference's need is looked at so often. ``share_every_s`` : flexible demand is divided anew no
    more often. ``poll_s`` : as long may the loop wait for something to hear. ``retry_after_s`` : until a worker that a
    server refused is ordered again. ``silent_s`` : an elastic job of which no step was heard for so long is told about.
    """

    rules: Rules = field(default_factory=lambda: rules_named("lyra"))
    gpu_types: tuple[str, ...] = ("V100", "T4")
    capability: Mapping[str, float] = field(default_factory=lambda: dict(CAPABILITY))
    delays: Delays = field(default_factory=lambda: Delays(restart_s=10.0, pause_s=1.0, keep_on_stop=True))
    forecast: Forecast = rising
    loans_every_s: float = 10.0
    share_every_s: float = 5.0
    poll_s: float = 0.1
    retry_after_s: float = 2.0
    silent_s: float = 300.0

    def __post_init__(self) -> None:
        for name in ("loans_every_s", "share_every_s", "poll_s", "retry_after_s", "silent_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise BadInputError(f"{getattr(self, name)} is not a number of seconds above 0", where=name)
