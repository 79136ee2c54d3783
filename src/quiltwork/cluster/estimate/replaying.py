"""What would have been thought of each job of a trace when it came."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from quiltwork.cluster.estimate.durations import Estimate, Past, Submitted, Told, Widths
from quiltwork.cluster.job_trace import Floats, TraceJob


@dataclass(frozen=True, eq=False)
class Replayed:
    """A trace's estimates in the order of submission: (n,) each, in seconds."""

    low: Floats
    median: Floats
    high: Floats
    sources: tuple[str, ...]


def replay(jobs: Iterable[TraceJob], *, seed: int = 0, window: int = 20_000) -> Replayed:
    """What ``Durations`` would have thought of each job of a trace when it came, had each run as soon as it came.

    A job's own running time, and those of jobs that had not ended, play no part in its estimate. The same as asking job
    by job, but faster by far: what features a job has and when the model is fitted hang on no estimate, so all jobs
    between two fits are asked of together. Only how wide intervals are is then gone through job by job.
    """
    trace = list(jobs)
    course = _course(trace)
    told = _all_told(trace, course, Past(seed, window))
    widths = Widths()
    made: list[Estimate] = []
    for number, ends in course:
        if not ends:
            made.append(widths.estimate(told[number]))
        elif trace[number].duration_s > 0:
            widths.saw(told[number], math.log(trace[number].duration_s))
    low, median, high = (np.array([estimate[part] for estimate in made], dtype=np.float64) for part in range(3))
    return Replayed(low, median, high, tuple(estimate.source for estimate in made))


def _course(trace: Sequence[TraceJob]) -> list[tuple[int, bool]]:
    """Which job comes or ends (True), one after another; what ends when another comes ends before."""
    running: list[tuple[float, str, int]] = []
    course: list[tuple[int, bool]] = []
    for number, job in enumerate(trace):
        while running and running[0][0] <= job.submit_s:
            course.append((heapq.heappop(running)[2], True))
        course.append((number, False))
        heapq.heappush(running, (job.submit_s + job.duration_s, job.id, number))
    return course


def _all_told(trace: Sequence[TraceJob], course: Sequence[tuple[int, bool]], past: Past) -> list[Told | None]:
    """What is said of each job before its interval is widened."""
    submitted = [Submitted(job.id, job.submit_s, job.gpus, job.team) for job in trace]
    told: list[Told | None] = [None] * len(trace)
    features: dict[int, Floats] = {}
    asked: list[int] = []

    def answer() -> None:
        for number, said in zip(asked, past.by_model([features[n] for n in asked]), strict=True):
            told[number] = said
        asked.clear()

    for number, ends in course:
        job = submitted[number]
        if ends:
            if trace[number].duration_s > 0:
                past.learn(job, features[number], math.log(trace[number].duration_s))
            continue
        features[number] = past.features(job)
        told[number] = past.of_kind(job)
        if told[number] is not None:
            continue
        if past.due:
            answer()
            past.fit()
        if past.fitted:
            asked.append(number)
    answer()
    return told
