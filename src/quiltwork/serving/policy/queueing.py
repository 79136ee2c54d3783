"""Whose work an agent runs next: verification before decoding before prompts, and nobody waits for ever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from quiltwork.serving.policy.cost import SegmentProfile

Instance = tuple[str, ...]
"""A segment as it stands on an agent: its block ids."""


class WorkClass(IntEnum):
    """Work by urgency: a sequence in the middle of its answer must not wait behind newly arrived prompts."""

    VERIFY = 0
    """Verifying drafted tokens, or computing again what was lost."""
    DECODE = 1
    PREFILL = 2


@dataclass(frozen=True)
class Waiting:
    """A piece of work in an instance's queue."""

    id: int
    instance: Instance
    work_class: WorkClass
    rows: int
    since: float
    """When it arrived."""
    kv_bytes: int = 0
    """Bytes of new pages that it needs."""


@dataclass(frozen=True)
class QueueLimits:
    """What one step of an agent may take."""

    rows: int = 256
    """Rows of all instances together."""
    sequences: int = 32
    max_wait_s: float = 0.05
    """After this long prompts count like the most urgent work, so that they starve at most so long."""


def next_batch(
    waiting: Sequence[Waiting],
    limits: QueueLimits,
    now: float,
    *,
    rows_of: Mapping[Instance, int] | None = None,
    free_kv_bytes: float = float("inf"),
) -> tuple[int, ...]:
    """Ids of the work to run now, most urgent first; works at the same instance become one batch.

    Parameters
    ----------
    waiting : all queues of an agent.
    now : seconds, on the clock of ``since``.
    rows_of : rows that an instance takes at a time (see ``batch_limit``); unbounded where absent.
    free_kv_bytes : bytes of pages that can still be had.

    The most urgent work is always taken if its pages fit, whatever its rows, so that no limit blocks it for ever.
    """
    chosen: list[int] = []
    rows, room = 0, dict(rows_of or {})
    for work in sorted(waiting, key=lambda w: (*_urgency(w, limits, now), w.id)):
        if len(chosen) >= limits.sequences:
            break
        fits = rows + work.rows <= limits.rows and work.rows <= room.get(work.instance, work.rows)
        if work.kv_bytes > free_kv_bytes or (chosen and not fits):
            continue
        chosen.append(work.id)
        rows += work.rows
        free_kv_bytes -= work.kv_bytes
        if work.instance in room:
            room[work.instance] = max(room[work.instance] - work.rows, 0)
    return tuple(chosen)


def _urgency(work: Waiting, limits: QueueLimits, now: float) -> tuple[int, float]:
    aged = now - work.since >= limits.max_wait_s
    return (int(WorkClass.VERIFY) if aged else int(work.work_class), work.since)


def ration(waiting: Sequence[Waiting], profiles: Mapping[Instance, SegmentProfile], slack: float) -> dict[int, int]:
    """Rows of prompts that ride along where sequences decode, by id: as many as hardly make the step longer.

    A batch of few rows takes the time that reading the weights takes, so that some rows of a prompt come for next to
    nothing; many make all who decode there wait. Each prompt may make its segment's batch longer by ``slack`` of what
    decoding alone would take, the oldest first: where more of them wait, more ride. At a segment where nobody decodes
    nothing is rationed, for there the weights have to be read for the prompt's own sake.
    """
    decoding: dict[Instance, int] = {}
    for work in waiting:
        if work.work_class is not WorkClass.PREFILL:
            decoding[work.instance] = decoding.get(work.instance, 0) + work.rows
    riding: dict[Instance, int] = {}
    prompts: dict[Instance, int] = {}
    rations: dict[int, int] = {}
    for work in sorted(waiting, key=lambda w: (w.since, w.id)):
        i = work.instance
        if work.work_class is not WorkClass.PREFILL or i not in decoding or i not in profiles:
            continue
        prompts[i] = prompts.get(i, 0) + 1
        table = profiles[i].rows
        most = int(table.most_within(table.at(decoding[i]) * (1 + slack * prompts[i])))
        rations[work.id] = min(work.rows, max(most - decoding[i] - riding.get(i, 0), LEAST_ROWS))
        riding[i] = riding.get(i, 0) + rations[work.id]
    return rations


LEAST_ROWS = 16
"""Of a prompt in a step, however crowded the step is: it must come to an end."""


def batch_limit(profile: SegmentProfile, share_s: float, *, least: int = 1) -> int:
    """Rows that a segment should take at a time: as many as stay within its share of the latency objective."""
    return max(int(profile.rows.most_within(share_s)), least)


def queue_seconds(
    waiting: Mapping[Instance, int],
    profiles: Mapping[Instance, SegmentProfile],
    limit: int,
    contexts: Mapping[Instance, float] | None = None,
) -> float:
    """Seconds that the work already waiting at an agent will take: rows per instance, in batches of at most ``limit``.

    contexts : per instance, the tokens that all its decoding rows together attend over; where they are not known,
        attention is not counted.

    An instance without a profile counts nothing.
    """
    total = 0.0
    for instance, rows in waiting.items():
        profile = profiles.get(instance)
        if profile is None or rows <= 0:
            continue
        full, rest = divmod(rows, limit)
        total += full * profile.batch_s(limit) + (profile.batch_s(rest) if rest else 0.0)
        if contexts is not None:
            total += contexts.get(instance, 0.0) * profile.context_s
    return total
