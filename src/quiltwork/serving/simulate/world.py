"""What a simulated world is made of. A real run's agents, links and paced block times fit into the same classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from quiltwork.core.errors import BadInputError
from quiltwork.serving.policy.cost import Link, SegmentProfile
from quiltwork.serving.policy.dispatch import POLICIES
from quiltwork.serving.policy.placement import Weights
from quiltwork.serving.policy.queueing import Instance, QueueLimits


@dataclass(frozen=True)
class Piece:
    """A segment of a model: what is loaded, executed and replicated as one."""

    instance: Instance
    start: int
    """Where it begins in its chain, in blocks: works climb, the lowest first."""
    profile: SegmentProfile


@dataclass(frozen=True)
class App:
    """A served model: its way through the segments, and whether something hangs on them that only it uses."""

    name: str
    route: tuple[Piece, ...]
    attached: bool = False
    stand_ins: tuple[str, ...] = ()
    """Apps that may answer for it (``policy.assembly``): its tenant allows what they were judged to lose."""

    def __post_init__(self) -> None:
        if not self.route:
            raise BadInputError("has no segments", where=self.name)
        if any(b.start <= a.start for a, b in zip(self.route, self.route[1:], strict=False)):
            raise BadInputError("its segments do not ascend", where=self.name)


@dataclass(frozen=True)
class Device:
    """An accelerator with the agent that runs it."""

    agent: str
    server: str
    memory_bytes: float


@dataclass(frozen=True)
class Cluster:
    """Devices and the links between them."""

    devices: tuple[Device, ...]
    inside: Link = field(default_factory=Link)
    """Between two devices of one server."""
    between: Link = field(default_factory=Link)
    """Between two servers; all devices of a server share its way out and its way in."""

    def __post_init__(self) -> None:
        if not self.devices:
            raise BadInputError("has no devices", where="cluster")
        if len({d.agent for d in self.devices}) < len(self.devices):
            raise BadInputError("two devices of one name", where="cluster")


@dataclass(frozen=True)
class Arrival:
    """A request: so many tokens in, so many out, at its time."""

    id: int
    app: str
    at: float
    prompt_tokens: int
    output_tokens: int

    def __post_init__(self) -> None:
        if self.prompt_tokens < 1 or self.output_tokens < 1 or self.at < 0:
            raise BadInputError("a request needs a token in, a token out and a time", where=f"request {self.id}")


FRONT = "front"
"""The name of the place where requests enter and tokens are drawn, as in ``agents.message``."""


@dataclass(frozen=True)
class Front:
    """A front as the live agents have one: what has been through its chain goes back to it, and the next token leaves
    from there. It and the agents decide by what they have heard of each other, not by what is.

    Letters to an agent that is in a step wait for its end; keys and values that are asked of it are given meanwhile.
    """

    token_s: float = 0.0
    """Its own work for each piece that it sends, one after the other: drawing a token, deciding, writing a letter."""
    beat_s: float = 0.25
    """Between two signs of life: between them a place knows of the others' queues only what it sent there itself."""
    horizon: int = 32
    """Tokens still to come that a way to keys and values is weighed against, at most (``AgentSettings.horizon``)."""
    link: Link = field(default_factory=Link)
    """Between the front and every agent."""

    def __post_init__(self) -> None:
        if not self.token_s >= 0:
            raise BadInputError(f"{self.token_s} is negative", where="front.token_s")
        if not self.beat_s > 0:
            raise BadInputError(f"{self.beat_s} is not positive", where="front.beat_s")
        if self.horizon < 1:
            raise BadInputError(f"{self.horizon} is not positive", where="front.horizon")


@dataclass(frozen=True)
class Settings:
    """How the world is run; every feature can be switched off alone."""

    limits: QueueLimits = field(default_factory=lambda: QueueLimits(rows=512, sequences=256, max_wait_s=0.05))
    prefill_chunk: int = 512
    """Prompt tokens of one sequence in one step."""
    slack: float = float("inf")
    """How much longer a prompt may make the batch that it rides in, as a share (``policy.queueing.ration``); infinite
    where prompts come in whole chunks."""
    page_tokens: int = 16
    hop_s: float = 1e-4
    """What every boundary between two segments costs: on the device for each batch that starts in the middle of a
    chain, and once more on the way where the next segment stands elsewhere."""
    step_s: float = 0.0
    """An agent's own work for each step, besides its batches."""
    piece_s: float = 0.0
    """And for each request that rides in it: reading its letter, making room for it, sending it on."""
    front: Front | None = None
    """None: tokens go straight back to the first segment, and everybody knows the others' queues as they are."""
    attached_share: float = 0.11
    """How much more a row costs that has attachments, as a share of the batch's rows (adapters of low rank)."""
    power: float = 1.0
    """Of the times that admission and settling sum: above 1 the slowest are spared rather than the mean."""
    output_tokens: float = 256.0
    """That a request is expected to generate before any has ended; then the mean of what was seen counts."""
    kv: str = "best"
    """How work gets at keys and values that another agent holds (``policy.dispatch.weigh``)."""
    hysteresis: float = 0.1
    by_cost: bool = True
    """Dispatch by cost; otherwise in turn."""
    admission: str = "moment"
    """Where a new request goes: by what all its ``steps`` cost it and the others there (``policy.admission``), or by
    what waits there at the ``moment``."""
    priorities: bool = True
    """Decoding before prompts; otherwise first come, first served."""
    replicate: bool = True
    """Add and retire replicas while running."""
    swap: bool = True
    """Load what is asked for and is nowhere, dropping what is worth least."""
    locality: bool = True
    assemble: bool = True
    """Let an app's stand-ins answer for it where they are cheaper."""
    placement: Weights = field(default_factory=Weights)
    period_s: float = 5.0
    """Between two looks at the replicas."""
    high: float = 0.85
    low: float = 0.0
    """Below which a replica goes; at 0 none does before its memory is asked for (a cluster that is all there is)."""
    wait_limit_s: float = float("inf")
    provisioning: str = "chains"
    """The first placement: ``settled`` (``policy.settling``), ``chains`` (``policy.spreading``) or ``segments``
    (``policy.placement`` alone)."""
    fill: float = 0.2
    """Placement adds replicas of what is busier than this, while there is memory."""
    kv_share: float = 0.2
    """Share of a device's memory that placement leaves to keys and values."""
    reserve_share: float = 0.05
    """Share that nobody may use: what arithmetic needs in passing."""

    def __post_init__(self) -> None:
        for name in ("prefill_chunk", "page_tokens", "period_s", "power", "output_tokens"):
            if not getattr(self, name) > 0:
                raise BadInputError(f"{getattr(self, name)} is not positive", where=name)
        if self.kv not in POLICIES:
            raise BadInputError(f"{self.kv!r} is not one of {', '.join(POLICIES)}", where="kv")
        for name in ("hop_s", "step_s", "piece_s", "attached_share", "hysteresis", "slack"):
            if not getattr(self, name) >= 0:
                raise BadInputError(f"{getattr(self, name)} is negative", where=name)
        if not 0 <= self.kv_share + self.reserve_share < 1:
            raise BadInputError("nothing would be left for weights", where="kv_share")
        for name, known in (("provisioning", ("chains", "segments", "settled")), ("admission", ("steps", "moment"))):
            if getattr(self, name) not in known:
                raise BadInputError(f"{getattr(self, name)!r} is not one of {', '.join(known)}", where=name)
        if not 0 < self.fill <= 1:
            raise BadInputError(f"{self.fill} is not in (0, 1]", where="fill")
        if self.prefill_chunk > self.limits.rows:
            raise BadInputError("more than a step's rows", where="prefill_chunk")


Placed = Mapping[str, Sequence[Instance]]
"""Per agent, the segments in its memory at the start."""
