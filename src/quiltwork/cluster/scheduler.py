"""The scheduler: what waits, who starts, who grows, who has to go, and which servers change hands.

It sees what is believed of jobs, never how long they will really run, and it has no clock: whoever runs it (the
simulator, the live controller) says what happened and when, asks for decisions, and carries them out. The decisions
are the rows that a call adds to the cluster's log.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence

from quiltwork.cluster.borrowing import Borrowing
from quiltwork.cluster.capacity import Capacity
from quiltwork.cluster.displacing import Displacing
from quiltwork.cluster.forecast import Forecast
from quiltwork.cluster.job import Job, Shape
from quiltwork.cluster.log import AGAIN
from quiltwork.cluster.needs import Needs
from quiltwork.cluster.policy.placing import EVERYWHERE, Placement, Way, place_by
from quiltwork.cluster.policy.preempting import Victim, clear_for
from quiltwork.cluster.policy.progress import Running, hear
from quiltwork.cluster.policy.reclaim import Held, reclaim
from quiltwork.cluster.policy.rules import Cost, Elastic, Rules
from quiltwork.cluster.policy.tiers import Tiers
from quiltwork.cluster.policy.waiting import Reservation, admissions, allowed_for
from quiltwork.cluster.queue import Queue
from quiltwork.cluster.reserving import NOBODY, Reserving
from quiltwork.cluster.sharing import Sharing
from quiltwork.cluster.state import Cluster


class Scheduler:
    """Decides on one cluster by one set of rules.

    forecast : of what inference needs. share_every_s : flexible demand is divided anew no more often. loans_every_s :
    loans are decided so often. return_s : from asking a server back until inference has it. progress_every_s : what a
    job says of its steps counts no more often. chance : for random reclaiming, handed in.
    """

    def __init__(
        self,
        cluster: Cluster,
        rules: Rules,
        *,
        forecast: Forecast,
        share_every_s: float = 60.0,
        loans_every_s: float = 300.0,
        return_s: float = 0.0,
        progress_every_s: float = 10.0,
        chance: random.Random | None = None,
    ) -> None:
        self.cluster, self.rules = cluster, rules
        self.tiers = Tiers(cluster.room.shelves, cluster.types, rules)
        self._sharing = Sharing(cluster, rules, self.tiers, every_s=share_every_s)
        self._progress_every_s = progress_every_s
        self._chance = chance or random.Random(0)
        self._capacity = Capacity(cluster, rules, self.tiers)
        self.reference = self._capacity.reference
        """The GPU type by which running times are told: training's fastest."""
        self._displacing = Displacing(cluster, rules)
        self.borrowing = Borrowing(cluster, rules) if rules.quotas else None
        self._reserving = Reserving(cluster, rules, self.tiers)
        self._queue = Queue(cluster, rules, self._displacing, self._reserving, self.borrowing, self.reference)
        self._needs = Needs(cluster, rules, forecast, every_s=loans_every_s, return_s=return_s)
        self._waited = False
        cluster.retimed.update(cluster.runs)

    # What happened.

    def check(self, job: Job) -> None:
        """Raises BadInputError for a job that training's servers can never hold, or that has no speed on them."""
        self._capacity.check(job)

    def submit(self, now: float, job: Job) -> int:
        """A job comes. Raises BadInputError as ``check`` does."""
        self.check(job)
        self.cluster.now = now
        number = self.cluster.submit(job, job.seconds(job.work, self.reference))
        self._queue.enter(number)
        return number

    def progressed(self, now: float, number: int, steps: int, total: int | None) -> str:
        """A job says that so many of its steps are done: what is believed of its remaining time follows, slowly.
        Returns what is odd about that; what a job says that does not run means nothing."""
        cluster = self.cluster
        cluster.now = now
        run = cluster.runs.get(number)
        if run is None:
            return ""
        seen = Running(run.done_by(now), run.rate, now - run.began, run.job.believed)
        belief = hear(cluster.heard.get(number), now, steps, total, seen, self._progress_every_s)
        if belief is None:
            return ""
        if belief.believed != run.job.believed:
            self._sharing.changed()
        cluster.progressed(number, belief)
        return belief.odd

    def ended(self, now: float, number: int, work: float | None = None, reason: str = "") -> None:
        """A job is done, has failed, or was cancelled. ``work`` : what it did, where that is known."""
        self.cluster.now = now
        if number in self._queue.keys:
            self._queue.leave(number)
        self.cluster.end(number, work, reason)
        self._left(number)

    def again(self, now: float, number: int, reason: str) -> None:
        """A running job goes back into the queue: it failed, and is tried again."""
        self.cluster.now = now
        self._stop(number, reason)

    def returned(self, now: float, server: int) -> None:
        """A server that was asked back is empty: it is inference's again."""
        self.cluster.now = now
        self.cluster.returned(server)

    def close(self, now: float, server: int, reason: str, *, empty: bool) -> None:
        """A server takes no more work. ``empty`` : whoever is on it has to leave, as where it is lost."""
        self.cluster.now = now
        self.cluster.close(server, reason)
        if empty:
            for number in list(self.cluster.base_on[server]):
                self._stop(number, reason)
            self._sharing.push_out(server, self.cluster.room.gpus[server], reason)
        self._sharing.changed()

    def open(self, now: float, server: int) -> None:
        """A server takes work again."""
        self.cluster.now = now
        self.cluster.open(server)
        self._sharing.changed()

    # Decisions.

    def decide(self, now: float) -> None:
        """One epoch: who starts, who is preempted for a shorter one, and who gets how many workers more."""
        self.cluster.now = now
        if self._queue.keys:
            if self.borrowing is not None:
                self._guarantee(self.borrowing)
            self._admit()
            if self._queue.keys and self._displacing.any and self._displacing.looks():
                self._displace()
        self._displacing.note()
        if self.rules.elastic is Elastic.GANDIVA and bool(self._queue.keys) != self._waited:
            self._waited = not self._waited
            self._sharing.changed()
        self._sharing.share_if_due(now, waiting=bool(self._queue.keys))

    def due(self) -> float:
        """When to decide again though nothing happens; infinity for never."""
        due = self._sharing.due()
        if self._queue.keys:
            due = min(due, self._displacing.due())
            if self.borrowing is not None:
                due = min(due, self.borrowing.due())
        return due

    def left_s(self, now: float, number: int) -> float | None:
        """Seconds that a job is believed to run from now on, or from its start where it waits; None where nothing is
        known, and of one that has ended."""
        run = self.cluster.runs.get(number)
        if run is None and number not in self.cluster.waiting:
            return None
        seconds = self._queue.seconds(number) if run is None else run.job.believed_left(run.done_by(now)) / run.rate
        return seconds if math.isfinite(seconds) else None

    def ahead_of(self, number: int) -> list[int]:
        """Jobs that wait and are thought of before this one, in order. Raises KeyError where it does not wait."""
        return self._queue.ahead_of(number)

    def loans(self, now: float, need: float, ready: Callable[[int], bool] = lambda server: True) -> None:
        """Inference needs a share of its servers: lend less of them, or more. ``ready`` : whether one may be lent."""
        self.cluster.now = now
        change = self._needs.change(now, need)
        if change > 0:
            self.lend(now, change, ready)
        elif change < 0:
            self.reclaim(now, -change)

    def lend(self, now: float, count: int, ready: Callable[[int], bool] = lambda server: True) -> None:
        """Lend so many of inference's servers, or as many as are ``ready``."""
        cluster = self.cluster
        cluster.now = now
        away = cluster.lent | cluster.returning | cluster.closed.keys()
        for server in cluster.inference:
            if count > 0 and server not in away and ready(server):
                cluster.lend(server)
                count -= 1
        self._sharing.changed()

    def reclaim(self, now: float, count: int) -> None:
        """Ask so many lent servers back, or all: those that are cheapest to empty. ``returned`` says when one is."""
        cluster, rules = self.cluster, self.rules
        cluster.now = now
        room = cluster.room
        lent = {s: Held(cluster.base_on[s], room.reach[s] - room.free[s]) for s in sorted(cluster.lent)}
        on = {n for held in lent.values() for n in held.base}
        plan = reclaim(
            lent,
            count,
            rules.reclaim,
            spans={n: len(cluster.runs[n].base) for n in on},
            gpus={n: sum(g for _, g in cluster.runs[n].base) for n in on},
            weights={n: cluster.runs[n].loss(now, cluster.delays) for n in on} if rules.reclaim is Cost.WORK else None,
            polish_s=rules.polish_s,
            chance=self._chance,
        )
        cluster.ask_back(plan.servers, count, len(plan.preempted), len(plan.surplus), rules.reclaim)
        for number in plan.preempted:
            self._stop(number, "reclaim")
        for server in plan.servers:
            self._sharing.push_out(server, room.reach[server] - room.free[server], "reclaim")

    # Who starts, and who stops.

    def _admit(self) -> None:
        kept_for = self._kept_for()
        while kept_for is not None and self._start_out_of_turn(kept_for):
            kept_for = self._kept_for()
        for start in admissions(
            self._queue.lines,
            self.cluster.room,
            self._ways,
            depth=self.rules.backfill_depth,
            reserved=self._reserved(kept_for),
            seconds=self._queue.seconds,
        ):
            self._queue.leave(start.job, admitted=True)
            self._begin(start.job, start.placement, revoking=start.revoking)

    def _ways(self, shape: Shape) -> Sequence[Way]:
        """Where a gang may go without stopping anybody."""
        return self.tiers.ways(shape, self._sharing.any)

    def _kept_for(self) -> int | None:
        """Who waits for servers that no younger job may take."""
        if self.borrowing is not None and self.borrowing.unmet in self._queue.keys:
            return self.borrowing.unmet
        return self._reserving.starved(self._queue.keys)

    def _reserved(self, number: int | None) -> Reservation | None:
        sooner = NOBODY if self.borrowing is None or number is None else self.borrowing.stoppable_for(number)
        return self._reserving.kept_for(number, sooner)

    def _start_out_of_turn(self, number: int) -> bool:
        """Start a job for which servers are kept before all others, wherever in its line it stands: others that come
        before it may not use them, and may not be passed over. Whether there is room for it."""
        shape = self.cluster.jobs[number].shape
        placed = place_by(self.cluster.room, shape, self._ways(shape))
        if placed is None:
            return False
        self._queue.leave(number)
        self._begin(number, placed[0], revoking=placed[1])
        return True

    def _guarantee(self, borrowing: Borrowing) -> None:
        """Whoever is within the quota of its team starts first, in the place of others that borrow if need be."""
        cluster = self.cluster
        for claim in borrowing.claims(
            self._ways,
            lambda shape: self.tiers.base(shape._replace(fungible=False), True),
            reserved=self._reserved(self._reserving.starved(self._queue.keys)),
            seconds=self._queue.seconds,
        ):
            self._queue.leave(claim.job, claimed=True)
            for victim in claim.stopped:
                self._stop(victim, f"quota: room for {cluster.jobs[claim.job].id}")
            self._begin(claim.job, claim.placement, revoking=claim.revoking)

    def _begin(self, number: int, placement: Placement, *, revoking: bool) -> None:
        cluster, room = self.cluster, self.cluster.room
        if revoking:
            for server, gpus in placement:
                self._sharing.push_out(server, gpus - room.free[server], f"room for {cluster.jobs[number].id}")
        run = cluster.start(number, placement, AGAIN if number in cluster.stopped else "")
        self._sharing.started(number, run)
        if self.borrowing is not None:
            self.borrowing.started(number, run)

    def _stop(self, number: int, reason: str) -> None:
        self._displacing.stopped(number, self.cluster.stop(number, reason))
        self._queue.enter(number)
        self._left(number)

    def _left(self, number: int) -> None:
        self._sharing.left(number)
        if self.borrowing is not None:
            self.borrowing.left(number)

    def _displace(self) -> None:
        """While the first that waits does not fit and later ones run in its way: they go back into the queue."""
        cluster, jobs = self.cluster, self.cluster.jobs
        reserved = self._reserved(self._kept_for())
        for _, key, number, shape in sorted(self._queue.lines.heads()):
            if number not in self._queue.keys:
                continue
            # One of a higher priority, or for which servers would be kept, would be the first to start again.
            mine = jobs[number].priority
            later: Iterator[Victim] = (
                victim for victim in self._displacing.candidates(key) if jobs[victim.job].priority <= mine
            )
            if self.borrowing is not None or self.rules.starvation_s is not None:
                later = self._may_stop(number, later)
            allowed = EVERYWHERE if reserved is None else allowed_for(number, reserved, self._queue.seconds)
            clearing = clear_for(shape, cluster.room, self.tiers.base(shape), later, allowed=allowed)
            if clearing is not None and clearing.stopped:
                for victim in clearing.stopped:
                    self._stop(victim, f"room for {jobs[number].id}")
                if self.borrowing is not None:
                    # Not whoever comes first: its own team's may have stopped for it.
                    self._queue.leave(number)
                    self._begin(number, clearing.placement, revoking=False)
                self._admit()

    def _may_stop(self, number: int, running: Iterable[Victim]) -> Iterator[Victim]:
        """Those of them that neither a quota nor a long wait protects from a job that waits."""
        protected = set() if self.borrowing is None else self.borrowing.protected_from(number)
        for victim in running:
            if victim.job not in protected and not self._reserving.would_come_before(victim.job, number):
                yield victim
