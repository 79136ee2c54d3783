"""The elastic trainer: any ``Trainable`` as processes that may become more and fewer while it trains.

``Link`` is what whoever controls them holds; ``WorkerSettings`` says how a worker is started. Nothing here knows why
the number of workers changes.
"""

from quiltwork.cluster.elastic.checkpoint import Found, Progress, newest, read_checkpoint
from quiltwork.cluster.elastic.link import JobLink, Link
from quiltwork.cluster.elastic.message import (
    Checkpointed,
    Concluded,
    Failed,
    Heartbeat,
    Leaving,
    Left,
    Lost,
    NotCheckpointed,
    Prepared,
    Ready,
    Regrouped,
    Report,
    Resized,
    Step,
    Unprepared,
)
from quiltwork.cluster.elastic.settings import TOKEN, WorkerSettings
from quiltwork.cluster.elastic.step_log import StepTime, longest_gap, read_step_log

__all__ = [
    "TOKEN",
    "Checkpointed",
    "Concluded",
    "Failed",
    "Found",
    "Heartbeat",
    "JobLink",
    "Leaving",
    "Left",
    "Link",
    "Lost",
    "NotCheckpointed",
    "Prepared",
    "Progress",
    "Ready",
    "Regrouped",
    "Report",
    "Resized",
    "Step",
    "StepTime",
    "Unprepared",
    "WorkerSettings",
    "longest_gap",
    "newest",
    "read_checkpoint",
    "read_step_log",
]
