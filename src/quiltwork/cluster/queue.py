"""The jobs of one cluster that wait, in the order in which they are thought of."""

from __future__ import annotations

from quiltwork.cluster.borrowing import Borrowing
from quiltwork.cluster.displacing import Displacing
from quiltwork.cluster.policy.rules import Order, Rules
from quiltwork.cluster.policy.waiting import Waiting
from quiltwork.cluster.reserving import Reserving
from quiltwork.cluster.state import Cluster


class Queue:
    """``keys`` : by waiting job, where it stands by the rules' order. ``lines`` : all of them, by shape. With quotas
    those that may be within their team's are in a line of their team's as well.

    reference : the GPU type by which running times are told.
    """

    def __init__(
        self,
        cluster: Cluster,
        rules: Rules,
        displacing: Displacing,
        reserving: Reserving,
        borrowing: Borrowing | None,
        reference: str,
    ) -> None:
        self._cluster, self._rules, self._reference = cluster, rules, reference
        self._displacing, self._reserving, self._borrowing = displacing, reserving, borrowing
        self.keys: dict[int, float] = {}
        self.lines = Waiting()
        for number in sorted(cluster.waiting):
            self.enter(number)

    def seconds(self, number: int) -> float:
        """How long a job that does not run is believed to run, with what is kept of its work."""
        job = self._cluster.jobs[number]
        return job.seconds(job.believed_left(self._cluster.kept[number]), self._reference)

    def enter(self, number: int) -> None:
        """A job waits from now on, or again."""
        job, rules = self._cluster.jobs[number], self._rules
        if rules.order is Order.FIFO:
            key = job.submit_s
        elif rules.order is Order.LAS:
            key = self._displacing.key(number)
        else:
            key = self.seconds(number) + rules.ageing * job.submit_s
        self.keys[number] = key
        self.lines.add(job.shape, key, number, job.priority)
        if self._borrowing is not None:
            self._borrowing.waits(number, key)
        self._reserving.waits(number)

    def leave(self, number: int, *, admitted: bool = False, claimed: bool = False) -> None:
        """A job does not wait any more. admitted : it is out of the line of all already; claimed : of its team's."""
        job, key = self._cluster.jobs[number], self.keys.pop(number)
        if not admitted:
            self.lines.remove(job.shape, key, number, job.priority)
        if self._borrowing is not None and not claimed:
            self._borrowing.waits_no_more(number, key)

    def ahead_of(self, number: int) -> list[int]:
        """Jobs that wait and are thought of before this one, in order. Raises KeyError where it does not wait."""
        jobs, borrowing = self._cluster.jobs, self._borrowing

        def turn(n: int) -> tuple[bool, int, float, int]:
            return borrowing is not None and not borrowing.covers(n), -jobs[n].priority, self.keys[n], n

        before = turn(number)
        return sorted((n for n in self.keys if turn(n) < before), key=turn)
