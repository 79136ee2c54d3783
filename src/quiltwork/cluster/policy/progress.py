"""How much work a running job has left, by what it says of its steps: those that it has left, at its measured pace.

Pace is told in steps for a unit of believed work, not of time: workers that come and go, and pauses when they do, are
in the work already. It is damped, so that one slow minute moves what is believed by little; and reports count at
intervals that grow with the run, so that a job of days leaves some dozens of rows in the log, not some thousands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

WEIGHT = 0.3
"""Of a newly measured pace, in the geometric mean with what was believed before."""
FARTHEST = 4.0
"""No report counts for more than this many times the pace, or the work left, that was believed before."""
PART_OF_RUN = 0.1
"""A report counts when this part of the run has passed since the last that did."""
MOST_ODD = 3
"""After so many reports that cannot be nothing is believed of a run's reports any more."""
LARGEST = 1 << 53
"""A count of steps above it is none."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What a run's reports have come to.

    at : seconds, when the last that counted came. ``steps`` of ``total`` were done then, both 0 where no report counts
    yet; ``work`` was, in reference worker-seconds. pace : steps for one of these, damped; None where nothing is known.
    odd : reports that cannot be.
    """

    at: float
    steps: int = 0
    total: int = 0
    work: float = 0.0
    pace: float | None = None
    odd: int = 0


@dataclass(frozen=True, slots=True)
class Running:
    """A run when a report of it comes. done : work done since the job began; rate : of it by a second; ran_s : since
    the run began; believed : the job's work in all, None where nothing is known."""

    done: float
    rate: float
    ran_s: float
    believed: float | None


@dataclass(frozen=True, slots=True)
class Belief:
    """What a report leads to. believed : the job's work in all from now on. odd : why the report cannot be."""

    heard: Heard
    believed: float | None
    odd: str = ""


def impossible(steps: float, total: float | None) -> str:
    """Why so many steps of so many (None : of nobody knows how many) cannot be; nothing where they can."""
    for count in (steps, steps if total is None else total):
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= LARGEST:
            return f"{count!s:.20} is not a number of steps"
    return f"{steps} steps of {total} are done" if total is not None and (steps > total or not total) else ""


def hear(last: Heard | None, now: float, steps: int, total: int | None, run: Running, every_s: float) -> Belief | None:
    """What a report (``steps`` of ``total`` are done) leads to; None for nothing, or nothing yet.

    last : what the run's reports had come to; None before the first. every_s : seconds between two that count, at
    least. Whatever a report says, believed work left changes by no more than ``FARTHEST`` times, or to what is done
    between two reports where it had come to less.
    """
    last = last or Heard(now)
    if last.odd >= MOST_ODD:
        return None
    if why := impossible(steps, total):
        return _odd(Heard(now, 0, 0, run.done, last.pace, last.odd + 1), run, why)
    if total is None:
        return None
    if steps < last.steps:
        again = Heard(now, steps, total, run.done, last.pace, last.odd + 1)
        return _odd(again, run, f"went back from {last.steps} to {steps} steps")
    left = None if run.believed is None else max(0.0, run.believed - run.done)
    if not last.total:
        pace = last.pace or ((total - steps) / left if left and steps < total else None)
        return Belief(Heard(now, steps, total, run.done, pace, last.odd), run.believed)
    worked = run.done - last.work
    if now - last.at < _interval_s(run, left, every_s) or steps == last.steps or not worked > 0:
        return None
    pace = (steps - last.steps) / worked
    if last.pace is not None:
        pace = last.pace * _within(pace / last.pace, 1 / FARTHEST, FARTHEST) ** WEIGHT
    found = (total - steps) / pace
    if left is not None:
        found = _within(found, left / FARTHEST, max(left * FARTHEST, worked))
    return Belief(Heard(now, steps, total, run.done, pace, last.odd), run.done + found)


def _odd(heard: Heard, run: Running, why: str) -> Belief:
    """The estimate stands."""
    ends = "; what it says of steps is not believed any more" if heard.odd >= MOST_ODD else ""
    return Belief(heard, run.believed, why + ends)


def _interval_s(run: Running, left: float | None, every_s: float) -> float:
    """Until a report counts again: sooner towards the end, where being wrong by little is being wrong by much."""
    longest = run.ran_s * PART_OF_RUN
    return max(every_s, longest if left is None else min(longest, left / run.rate / 2))


def _within(value: float, low: float, high: float) -> float:
    assert math.isfinite(value)
    return min(max(value, low), high)
