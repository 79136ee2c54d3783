"""Running jobs that go back into the queue for those that wait: longer ones, or those that have had more service."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator

from quiltwork.cluster.policy.preempting import Victim
from quiltwork.cluster.policy.rules import Order, Rules
from quiltwork.cluster.running import Run
from quiltwork.cluster.state import Cluster

LEVEL = 1e9
"""Between two levels of attained service: more than any time of submission."""


class Displacing:
    """Who may be displaced in one cluster, for a job with a given key of the queue."""

    def __init__(self, cluster: Cluster, rules: Rules) -> None:
        self._cluster, self._rules = cluster, rules
        self._by_end: list[tuple[float, int, int]] = []
        """Believed ends of runs, their numbers and turns; one whose turn has passed is outdated."""
        self._noted = 0
        self._attained: dict[int, float] = {}
        self._looked_at = -float("inf")

    @property
    def any(self) -> bool:
        return self._rules.order in (Order.SRTF, Order.LAS)

    def stopped(self, number: int, run: Run) -> None:
        """A job was preempted: what it did counts as service, kept or not."""
        served = self._attained.get(number, 0.0)
        self._attained[number] = served + (run.done - run.resumed) * run.job.gpus_per_worker

    def level(self, number: int) -> int:
        """How many of the thresholds a job's attained service has passed."""
        served = self._attained.get(number, 0.0)
        run = self._cluster.runs.get(number)
        if run is not None:
            served += (run.done_by(self._cluster.now) - run.resumed) * run.job.gpus_per_worker
        return bisect_right(self._rules.service_levels, served)

    def key(self, number: int) -> float:
        """Where a job waits by attained service: by its level, then by submission."""
        return self.level(number) * LEVEL + self._cluster.jobs[number].submit_s

    def due(self) -> float:
        """When running jobs are to be looked at again while somebody waits."""
        return self._looked_at + self._rules.service_every_s if self._rules.order is Order.LAS else float("inf")

    def looks(self) -> bool:
        """Whether it is time to look for running jobs to displace."""
        if self._rules.order is Order.LAS:
            if self._cluster.now < self.due():
                return False
            self._looked_at = self._cluster.now
        return True

    def candidates(self, key: float) -> Iterator[Victim]:
        """Running jobs that come after one that waits with ``key``, the last first."""
        if self._rules.order is Order.SRTF:
            yield from self._longer(self._cluster.now + key)
        else:
            yield from self._longer_served(int(key // LEVEL))

    def _longer(self, end: float) -> Iterator[Victim]:
        self.note()
        runs = self._cluster.runs
        for believed, number, turn in reversed(self._by_end):
            if believed <= end:
                return
            run = runs.get(number)
            if run is not None and run.turn == turn and self._ran_enough(run):
                yield Victim(number, run.base)

    def _longer_served(self, level: int) -> Iterator[Victim]:
        runs = self._cluster.runs
        served = sorted(((self.key(number), number) for number in runs), reverse=True)
        for key, number in served:
            if key < (level + 1) * LEVEL:
                return
            if self._ran_enough(runs[number]):
                yield Victim(number, runs[number].base)

    def _ran_enough(self, run: Run) -> bool:
        return self._cluster.now - run.began >= self._rules.min_run_s

    def note(self) -> None:
        """Before anybody forgets which runs changed their speed: when they are believed to end now."""
        if self._rules.order is not Order.SRTF:
            return
        runs = self._cluster.runs
        for number, run in self._cluster.retimed.items():
            if run.turn > self._noted:
                left = run.job.believed_left(run.done)
                insort(self._by_end, (run.ends_at(left), number, run.turn))
        self._noted = self._cluster.turns
        if len(self._by_end) > 2 * len(runs) + 64:
            self._by_end = [end for end in self._by_end if end[1] in runs and runs[end[1]].turn == end[2]]
