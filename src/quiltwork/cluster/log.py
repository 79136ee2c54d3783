"""The decision log: one row for everything that happens, and enough in it to compute every figure from it alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple


class Action(StrEnum):
    """What a row of the log tells."""

    SERVER = "server"
    """A server there is at the beginning: its GPUs are ``after``, its pool the reason."""
    SUBMIT = "submit"
    """``cost`` is the job's work, ``gain`` its running time alone as asked for."""
    START = "start"
    SCALE_OUT = "scale_out"
    SCALE_IN = "scale_in"
    PREEMPT = "preempt"
    """``cost`` is the work lost, in reference worker-seconds."""
    PROGRESS = "progress"
    """A running job said how far it is: ``before`` steps of ``after``. ``cost`` is the work that it is believed to be
    in all from now on (-1 where nothing is), ``gain`` its steps for a unit of work (0 where nothing is known); the
    reason is why the report cannot be."""
    END = "end"
    SHARE = "share"
    """Flexible demand was divided among ``before`` jobs; ``cost`` is what that is worth in seconds, ``gain`` the share
    by which the best division could be better."""
    LOAN = "loan"
    RECLAIM = "reclaim"
    """The plan for ``after`` servers fewer; ``cost`` is what was preempted for it."""
    RETURN = "return"
    CLOSE = "close"
    """A server takes no work: it is drained, or lost."""
    OPEN = "open"
    NEED = "need"
    """Servers that inference needs from now on (``cost``), and then (``gain``), in a straight line between the two."""


Changes = tuple[tuple[int, int], ...]
"""Servers by number, and how the GPUs taken on each change."""


AGAIN = "again"
"""Why a job starts that ran before and was stopped."""
LOST = "lost"
"""Why a job stops, or a server closes, that there was no warning for."""


class Row(NamedTuple):
    """One decision or event.

    ``before``, ``after`` : workers. ``gpus`` : what the job holds afterwards on training's servers and on lent ones.
    """

    time: float
    action: Action
    job: str = ""
    servers: Changes = ()
    before: int = 0
    after: int = 0
    gpus: tuple[int, int] = (0, 0)
    reason: str = ""
    cost: float = 0.0
    gain: float = 0.0


def digest(rows: Iterable[Row]) -> str:
    """A hash of a log: the same decisions at the same times have the same."""
    made = hashlib.sha256()
    for row in rows:
        made.update(repr(tuple(row)).encode())
    return made.hexdigest()
