"""Everything that crosses between workers and the link, and what the link reports: plain records.

They cross as lines of JSON (``lines``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True)
class Plan:
    """Who computes together from some step boundary on."""

    generation: int
    """Higher than that of any plan before."""
    members: tuple[str, ...]
    """By rank; nobody where the job is to stop."""
    source: str = ""
    """Who has the state: the first member where nobody lacks it."""
    receivers: tuple[str, ...] = ()
    """Who gets it."""
    store: str = ""
    """``host:port`` of the store through which they find each other; a worker has it."""
    restore: bool = False
    """Whether the source first takes up the newest checkpoint, where there is one."""


# ---- from a worker


@dataclass(frozen=True)
class Hello:
    """The first line of a connection."""

    job: str
    worker: str
    token: str
    pid: int
    host: str
    """Where other workers reach this one."""


@dataclass(frozen=True)
class Ready:
    """Model and data are built, one gradient was computed: it can join."""

    pid: int
    host: str
    elastic: bool
    store: str
    """``host:port`` of the store that it offers."""
    layout: str
    """A digest of its parameters' names, shapes and types; nothing where it is not elastic."""
    again: bool = False
    """Whether it comes back to a link; then it says next where it is (``Computing``, ``Stalled`` or ``Finished``), and
    nothing is begun with it before it has."""


@dataclass(frozen=True)
class Computing:
    """Said after ``Ready`` by one that comes back: it was computing, and still is."""

    plan: Plan
    done: int


@dataclass(frozen=True)
class Prepared:
    """It is connected with all others of the plan."""

    generation: int


@dataclass(frozen=True)
class Unprepared:
    """It could not be connected with the others of the plan."""

    generation: int
    what: str


@dataclass(frozen=True)
class Switched:
    """All who compute have agreed on the step boundary, and this is it."""

    generation: int
    done: int


@dataclass(frozen=True)
class Resized:
    """It has all it needs and takes part in the next step."""

    generation: int
    done: int
    pause_s: float
    """From the boundary, or from being told to enter, until now."""


@dataclass(frozen=True)
class Broken:
    """Its group failed under it: somebody has gone."""

    generation: int
    what: str


@dataclass(frozen=True)
class Stalled:
    """It has left its group and waits."""

    generation: int
    done: int
    """Steps that its state has behind it."""
    whole: bool
    """Whether that is a state between two steps, and not one half received."""


@dataclass(frozen=True)
class Leaving:
    """It was asked by a signal to end, and will at the next boundary."""


@dataclass(frozen=True)
class Left:
    """It was told to end, and has done all it had to; its process ends now and may be ended."""


@dataclass(frozen=True)
class Step:
    """How far it is; not sent for every step where these are short."""

    generation: int
    done: int
    total: int | None
    finished: bool
    step_s: float
    """Mean seconds of the steps since the last such report; 0 in the first one after a change."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """May hold what is no number, as a loss may."""


@dataclass(frozen=True)
class Checkpointed:
    done: int
    path: str


@dataclass(frozen=True)
class NotCheckpointed:
    """A checkpoint could not be written, or one that is there is not whole; training goes on without it."""

    done: int | None
    """Steps of the one that was to be written."""
    what: str


@dataclass(frozen=True)
class Finished:
    """The trainable has finished; its result is not written yet."""

    done: int


@dataclass(frozen=True)
class Concluded:
    """The job is over."""

    done: int
    result: str | None
    """Where the last state was written; None where the job keeps no checkpoints, or it could not be written."""


@dataclass(frozen=True)
class Failed:
    """It cannot go on, and ends."""

    what: str
    """One line."""


@dataclass(frozen=True)
class Heartbeat:
    done: int
    since_step_s: float
    """Seconds since it last finished a step, or was told to do something else."""


# ---- to a worker


@dataclass(frozen=True)
class Welcome:
    heartbeat_s: float


@dataclass(frozen=True)
class Refused:
    """It cannot take part, and is to end."""

    what: str


@dataclass(frozen=True)
class Prepare:
    """Get connected with the others of this plan, beside whatever you are doing."""

    plan: Plan


@dataclass(frozen=True)
class Cancel:
    """That plan is not going to happen."""

    generation: int


@dataclass(frozen=True)
class Go:
    """All are prepared: change to that plan at the boundary at which all of you know that."""

    generation: int


@dataclass(frozen=True)
class Enter:
    """To one that is not computing: take part in that plan now."""

    generation: int


@dataclass(frozen=True)
class Abandon:
    """Plans up to that generation are void: stop, and say what you have (``Stalled``)."""

    generation: int


@dataclass(frozen=True)
class Warn:
    """A stop is coming: write a checkpoint at the next boundary."""


@dataclass(frozen=True)
class Conclude:
    """Write the job's result."""


@dataclass(frozen=True)
class End:
    """You are not needed any more."""

    save: bool = False
    """Whether what you hold would be lost with you."""


# ---- made by the link, for whoever listens to it


@dataclass(frozen=True)
class Regrouped:
    """All members of a plan have taken it up."""

    generation: int
    members: tuple[str, ...]
    done: int
    pause_s: float
    """The longest that one of them was held up."""


@dataclass(frozen=True)
class Lost:
    """A worker has gone without a word."""

    what: str


FromWorker: TypeAlias = (
    Hello | Ready | Computing | Prepared | Unprepared | Switched | Resized | Broken | Stalled | Leaving | Left | Step
    | Checkpointed | NotCheckpointed | Finished | Concluded | Failed | Heartbeat
)  # fmt: skip
ToWorker: TypeAlias = Welcome | Refused | Prepare | Cancel | Go | Enter | Abandon | Warn | Conclude | End
Told: TypeAlias = (
    Ready | Prepared | Unprepared | Step | Resized | Regrouped | Leaving | Left | Checkpointed | NotCheckpointed
    | Concluded | Failed | Lost | Heartbeat
)  # fmt: skip
"""What a controller hears of."""


@dataclass(frozen=True)
class Report:
    """Something that happened to a job."""

    job: str
    worker: str
    """Nothing where it concerns the job as a whole."""
    at: float
    """By the link's clock."""
    what: Told
