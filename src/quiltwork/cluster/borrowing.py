"""Quotas at work: whose jobs are covered, who borrows, and who of these stops for a team that wants its own back."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from quiltwork.cluster.job import Shape
from quiltwork.cluster.policy.placing import EVERYWHERE, Placement, Tier, Way
from quiltwork.cluster.policy.preempting import clear_for
from quiltwork.cluster.policy.quotas import Borrower, account_of, cheapest_first, check_quotas, covered
from quiltwork.cluster.policy.rules import Rules
from quiltwork.cluster.policy.waiting import Reservation, Waiting, admissions, allowed_for
from quiltwork.cluster.running import Run
from quiltwork.cluster.server import Pool
from quiltwork.cluster.state import Cluster


@dataclass(frozen=True, slots=True)
class Claim:
    """A waiting job starts within its team's quota. ``stopped`` : those that go back into the queue for it first."""

    job: int
    placement: Placement
    revoking: bool
    stopped: tuple[int, ...] = ()


class Borrowing:
    """What the teams of one cluster hold, and who of them waits within its quota.

    Raises BadInputError where quotas are more than training's own servers have.
    """

    def __init__(self, cluster: Cluster, rules: Rules) -> None:
        self._cluster, self._rules, self._quotas = cluster, rules, rules.quotas
        self._own = [server.pool is Pool.TRAIN for server in cluster.servers]
        check_quotas(self._quotas, sum(s.gpus for s in cluster.servers if s.pool is Pool.TRAIN))
        self._held: dict[str, dict[int, int]] = {}
        """By account, GPUs of each job's base workers on training's own servers, in the order of their starts."""
        self._sums: Counter[str] = Counter()
        """By account, all of those."""
        self._lines: dict[str, Waiting] = {team: Waiting() for team in self._quotas}
        """By account, the waiting jobs that are no larger than its quota."""
        self._queued: Counter[str] = Counter()
        """By account, how many wait."""
        self._stuck: set[tuple[str, Shape]] = set()
        """For whom no room can be made until something is freed, or a borrower has run for long enough."""
        self._grown = -1
        self._retry_at = math.inf
        self.unmet: int | None = None
        """The first job that waits within its quota, has no room, and would lose what becomes free to another team."""
        for number, run in cluster.runs.items():
            self.started(number, run)

    # Who holds what.

    def account(self, number: int) -> str:
        return account_of(self._cluster.jobs[number].team, self._quotas)

    def started(self, number: int, run: Run) -> None:
        """A job runs from now on."""
        gpus = sum(n for server, n in run.base if self._own[server])
        if gpus:
            account = self.account(number)
            self._held.setdefault(account, {})[number] = gpus
            self._sums[account] += gpus

    def left(self, number: int) -> None:
        """A job runs no more."""
        account = self.account(number)
        self._sums[account] -= self._held.get(account, {}).pop(number, 0)

    def guaranteed(self, account: str) -> int:
        """GPUs that the account's teams are guaranteed."""
        return self._quotas.get(account, 0)

    def held(self, account: str) -> int:
        """GPUs of training's own that base workers of the account's jobs have."""
        return self._sums[account]

    def covered(self, account: str) -> set[int]:
        """The account's running jobs that its quota covers."""
        return covered(self._held.get(account, {}), self.guaranteed(account))

    def borrowed(self) -> Counter[str]:
        """By team, GPUs of training's own that jobs have which no quota covers."""
        found: Counter[str] = Counter()
        for held in self._held.values():
            for number, gpus in held.items():
                found[self._cluster.jobs[number].team] += gpus
        for account in self._held:
            for number in self.covered(account):
                found[self._cluster.jobs[number].team] -= self._held[account][number]
        return found

    def covers(self, number: int) -> bool:
        """Whether a job that waits would keep its team within its quota."""
        account = self.account(number)
        return self._has_left(account, self._cluster.jobs[number].shape)

    def _has_left(self, account: str, shape: Shape) -> bool:
        return self.held(account) + shape.workers * shape.gpus_per_worker <= self.guaranteed(account)

    def protected_from(self, number: int) -> set[int]:
        """Running jobs that never stop for this one: those of other teams that their quotas cover."""
        mine = self.account(number)
        return {job for account in self._held if account != mine for job in self.covered(account)}

    # Who waits.

    def waits(self, number: int, key: float) -> None:
        """A job waits with this key of the queue."""
        job, account = self._cluster.jobs[number], self.account(number)
        self._queued[account] += 1
        if job.w_min * job.gpus_per_worker <= self.guaranteed(account):
            self._lines[account].add(job.shape, key, number, job.priority)

    def waits_no_more(self, number: int, key: float) -> None:
        job, account = self._cluster.jobs[number], self.account(number)
        self._queued[account] -= 1
        if job.w_min * job.gpus_per_worker <= self.guaranteed(account):
            self._lines[account].remove(job.shape, key, number, job.priority)

    def due(self) -> float:
        """When somebody may be stopped who has not run for long enough; infinity where nobody waits for that."""
        return self._retry_at

    # Who starts within a quota.

    def claims(
        self,
        ways: Callable[[Shape], Sequence[Way]],
        training: Callable[[Shape], Sequence[Tier]],
        *,
        reserved: Reservation | None,
        seconds: Callable[[int], float],
    ) -> Iterator[Claim]:
        """The jobs that start now within their teams' quotas, one after another. Whoever iterates makes each start
        before asking for the next.

        ways : where a shape may go without stopping anybody. training : the tiers of training's own servers. reserved,
        seconds : as ``admissions`` has them; what is kept for a job that borrows is kept from nobody here.
        """
        if reserved is not None and not self.covers(reserved.job):
            reserved = None
        now, room = self._cluster.now, self._cluster.room
        if room.grown != self._grown or now >= self._retry_at:
            self._stuck.clear()
        self._grown = room.grown
        self._retry_at, self.unmet = math.inf, None
        waiting = [(min(line.heads()), account) for account, line in self._lines.items() if any(line.lines.values())]
        for _, account in sorted(waiting):

            def within(shape: Shape, account: str = account) -> Sequence[Way]:
                return ways(shape) if self._has_left(account, shape) else ()

            line = self._lines[account]
            for start in admissions(line, room, within, depth=self._rules.backfill_depth, reserved=reserved,
                                    seconds=seconds):  # fmt: skip
                self._queued[account] -= 1
                yield Claim(start.job, start.placement, start.revoking)
            yield from self._reclaimed(account, line, training, reserved, seconds)

    def _reclaimed(
        self,
        account: str,
        line: Waiting,
        training: Callable[[Shape], Sequence[Tier]],
        reserved: Reservation | None,
        seconds: Callable[[int], float],
    ) -> Iterator[Claim]:
        """Those for whom borrowers have to stop."""
        passed: set[Shape] = set()
        depth = self._rules.backfill_depth
        while (depth is None or len(passed) <= depth) and (heads := line.heads(passed)):
            _, key, number, shape = min(heads)
            if not self._has_left(account, shape):
                passed.add(shape)
                continue
            allowed = EVERYWHERE if reserved is None else allowed_for(number, reserved, seconds)
            clearing = None
            if (account, shape) not in self._stuck:
                clearing = clear_for(shape, self._cluster.room, training(shape), cheapest_first(self._borrowers()),
                                     revoking=True, allowed=allowed)  # fmt: skip
            if clearing is None:
                self._stuck.add((account, shape))
                passed.add(shape)
                self._note_unmet(number)
                continue
            self.waits_no_more(number, key)
            yield Claim(number, clearing.placement, True, clearing.stopped)

    def stoppable_for(self, number: int) -> dict[int, float]:
        """Running jobs that may be stopped for one that waits, and in how many seconds each has run for the minimum run
        time; nobody for one that would borrow itself."""
        if not self.covers(number):
            return {}
        now = self._cluster.now
        return {job: max(0.0, self._until(run) - now) for job, run in self._uncovered().items()}

    def _note_unmet(self, number: int) -> None:
        """It waits within its quota, until something is freed or a borrower has run for long enough."""
        mine = self.account(number)
        if self.unmet is None and any(count for account, count in self._queued.items() if account != mine):
            self.unmet = number
        young = (self._until(run) for run in self._uncovered().values())
        self._retry_at = min((end for end in young if end > self._cluster.now), default=math.inf)

    def _until(self, run: Run) -> float:
        """When it has run for the minimum run time."""
        return run.began + self._rules.min_run_s if self._rules.min_run_s else -math.inf

    def _uncovered(self) -> dict[int, Run]:
        """Running jobs on training's own servers that no quota covers."""
        runs = self._cluster.runs
        return {
            job: runs[job]
            for account, held in self._held.items()
            for job in sorted(held.keys() - self.covered(account))
        }

    def _borrowers(self) -> Iterator[Borrower]:
        """Who may be stopped now: jobs that run for less than the minimum run time may not."""
        now, delays = self._cluster.now, self._cluster.delays
        for number, run in self._uncovered().items():
            if now >= self._until(run):
                yield Borrower(number, run.base, run.job.priority, run.loss(now, delays))
