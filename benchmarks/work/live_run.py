"""Paced jobs on a live cluster of this machine: the real controller, store, link, supervisors, keepers and workers."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from quiltwork.cluster.live.entries import ENDED
from quiltwork.cluster.live.host import Host, open_host
from quiltwork.cluster.live.settings import Settings
from quiltwork.cluster.log import Row
from quiltwork.cluster.server import Server
from quiltwork.core.errors import QuiltworkError
from work.paced_jobs import PacedJob

LOOK_S = 1.0


@dataclass(frozen=True)
class Took:
    """One step of a trainable: when it ended (seconds since 1970), steps done, workers."""

    at: float
    done: int
    workers: int


@dataclass(frozen=True)
class LiveRun:
    """rows : the decision log, times in seconds since 1970. names : of jobs by id. steps : by job, of trainables.
    begun : by job, when a process of a command began, and how many of its steps were done then. jct_s : by job.
    cores : processor time of all processes over the run's time."""

    rows: list[Row]
    names: dict[str, str]
    steps: dict[str, list[Took]]
    begun: dict[str, list[tuple[float, int]]]
    jct_s: dict[str, float]
    seconds: float
    cores: float


class ScriptedLender:
    """Inference whose need is written down, one share for each decision; what it lends is idle at once."""

    def __init__(self, needs: Sequence[float]) -> None:
        self._needs, self._asked = needs, 0

    def need(self) -> float:
        """As ``Lender``."""
        self._asked += 1
        return self._needs[(self._asked - 1) % len(self._needs)]

    def release(self, server: str) -> bool:
        """As ``Lender``."""
        return True

    def take_back(self, server: str) -> None:
        """As ``Lender``."""


def run_live(
    folder: Path,
    servers: Sequence[Server],
    jobs: Sequence[PacedJob],
    needs: Sequence[float],
    settings: Settings,
    *,
    limit_s: float,
    say: Callable[[str], None],
) -> LiveRun:
    """Submit each job when it comes, until all have ended. Raises QuiltworkError where one failed, or not all of them
    had ended after ``limit_s``."""
    cpu = _cpu_s()
    began = time.monotonic()
    folder.mkdir(parents=True)
    stop = threading.Event()
    with open_host(Host(folder, servers, settings), lender=ScriptedLender(needs)) as (controller, desk):
        loop = threading.Thread(target=controller.run, args=(stop,))
        names: dict[str, str] = {}
        try:
            first = time.monotonic()
            loop.start()
            for job in jobs:
                stop.wait(max(0.0, first + job.at - time.monotonic()))
                names[desk.submit(job.spec(folder))] = job.name
            while any(shown["state"] not in ENDED for shown in desk.jobs()):
                if time.monotonic() - first > limit_s:
                    raise QuiltworkError(f"not all jobs had ended after {limit_s:g} s", where="live run")
                stop.wait(LOOK_S)
                say(f"{sum(shown['state'] in ENDED for shown in desk.jobs())} of {len(jobs)} jobs have ended")
            seconds = time.monotonic() - began
            ended = desk.jobs()
            rows = desk.log()
            logs = {str(shown["id"]): desk.logs(str(shown["id"])) for shown in ended}
        finally:
            stop.set()
            loop.join()
            controller.stop_workers(5.0)
    for shown in ended:
        if shown["state"] != "done":
            raise QuiltworkError(f"{shown['state']}: {shown['error']}", where=f"{names[str(shown['id'])]}")
    return LiveRun(
        rows,
        names,
        {job: _steps(folder / "jobs" / job / "steps.log") for job in names},
        {job: sorted(one for path in found.values() for one in _begun(path)) for job, found in logs.items()},
        {str(shown["id"]): float(str(shown["ended"])) - float(str(shown["submitted"])) for shown in ended},
        seconds,
        (_cpu_s() - cpu) / (time.monotonic() - began),
    )


def _cpu_s() -> float:
    """Of this process, and of all below it that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _steps(path: Path) -> list[Took]:
    if not path.exists():
        return []
    lines = [line.split() for line in path.read_text().splitlines()]
    return [Took(float(at), int(done), int(workers)) for at, done, workers in lines]


def _begun(log: Path) -> list[tuple[float, int]]:
    """What a process of a command said: when it began, and with how many steps done."""
    lines = [line.split() for line in log.read_text().splitlines() if line.startswith("begins ")]
    return [(float(at), int(done)) for _, done, at in lines]
