"""How agents decide: one dataclass, the same for all of a front."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from quiltwork.core.errors import BadInputError
from quiltwork.serving.policy.cost import Link, SegmentProfile
from quiltwork.serving.policy.dispatch import POLICIES
from quiltwork.serving.policy.queueing import Instance, QueueLimits


@dataclass(frozen=True)
class AgentSettings:
    """Raises BadInputError naming the field that is out of range."""

    limits: QueueLimits = field(default_factory=QueueLimits)
    history_bytes: int = 64 << 20
    """Of hidden states that an agent keeps so that another can take over from it."""
    hysteresis: float = 0.1
    horizon: int = 32
    """Tokens that a sequence is taken to make still, at most, when a way to its state is weighed that costs once and
    saves with every token."""
    slack: float = float("inf")
    """How much longer a prompt may make the batch that it rides in, as a share (``policy.queueing.ration``); infinite
    where prompts come in whole chunks."""
    rebalance_s: float = 5.0
    """Seconds between two looks at which segments want more or fewer replicas; 0 for never."""
    wait_limit_s: float = 1.0
    """Queueing time at the 95th percentile from which a segment wants another replica."""
    provisioning: str = "segments"
    """What stands where: ``segments`` (``policy.placement``), or ``settled`` (``policy.settling``) where it is known
    what segments cost and every chain fits an agent."""
    admission: str = "moment"
    """Where a new request goes: by what all its ``steps`` cost it and the others there (``policy.admission``), or by
    what waits there at the ``moment``."""
    power: float = 1.0
    """Of the times that admission and settling sum: above 1 the slowest are spared rather than the mean."""
    output_tokens: float = 256.0
    """That a request is expected to generate before any has ended; then the mean of what was seen counts."""
    kv_policy: str = "best"
    """See ``policy.dispatch.weigh``."""
    links: Mapping[tuple[str, str], Link] = field(default_factory=dict)
    """From one place to another; a missing one costs nothing."""
    profiles: Mapping[Instance, SegmentProfile] = field(default_factory=dict)
    """What segments cost, where that is known; the rest is learnt from the batches that are run."""
    log_batches: bool = False
    """Whether agents tell the front what every batch held."""

    def __post_init__(self) -> None:
        if self.kv_policy not in POLICIES:
            raise BadInputError(f"{self.kv_policy!r} is not one of {', '.join(POLICIES)}", where="kv_policy")
        if self.history_bytes < 0:
            raise BadInputError(f"{self.history_bytes} is negative", where="history_bytes")
        for name, known in (("provisioning", ("segments", "settled")), ("admission", ("steps", "moment"))):
            if getattr(self, name) not in known:
                raise BadInputError(f"{getattr(self, name)!r} is not one of {', '.join(known)}", where=name)
        for name in ("power", "output_tokens"):
            if not getattr(self, name) > 0:
                raise BadInputError(f"{getattr(self, name)} is not positive", where=name)
        if not self.slack >= 0:
            raise BadInputError(f"{self.slack} is negative", where="slack")
        if self.horizon < 1:
            raise BadInputError(f"{self.horizon} is not positive", where="horizon")
        if not 0 <= self.hysteresis < 1:
            raise BadInputError(f"{self.hysteresis} is not in [0, 1)", where="hysteresis")

    def link(self, a: str, b: str) -> Link:
        """The way from one place to another."""
        return self.links.get((a, b)) or Link()
