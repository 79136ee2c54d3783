"""The loop of one worker: steps with the others, changes at boundaries, and what happens when somebody is gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from quiltwork.cluster.elastic import message as m
from quiltwork.cluster.elastic.averaging import Mean, alone, in_parts, together
from quiltwork.cluster.elastic.checkpoint import Progress, progress_from
from quiltwork.cluster.elastic.group import GroupBroken
from quiltwork.cluster.elastic.inbox import Inbox
from quiltwork.cluster.elastic.joining import Joined, Joining
from quiltwork.cluster.elastic.saving import Saver
from quiltwork.cluster.elastic.settings import WorkerSettings
from quiltwork.cluster.elastic.step_log import StepLog, StepTime
from quiltwork.cluster.elastic.transfer import receive_state, send_state
from quiltwork.cluster.elastic.work import Work
from quiltwork.core.errors import QuiltworkError
from quiltwork.core.trainable import StepReport

_REPORT_S = 0.2
"""Steps are reported no more often than this; the first one after a change and the last one always are."""
_LOOK_S = 1.0
"""How often one that waits looks whether there still is a link."""


class Training:
    """One worker, from its first plan to its last step.

    Parameters
    ----------
    lost_for : seconds without a link.
    say : tells the link.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        work: Work,
        inbox: Inbox,
        joining: Joining,
        saver: Saver,
        *,
        say: Callable[[m.FromWorker], None],
        lost_for: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._work, self._inbox, self._joining, self._saver = settings, work, inbox, joining, saver
        self._say, self._lost_for, self._clock = say, lost_for, clock
        self._log = StepLog(settings.step_log)
        self._plan: m.Plan | None = None
        self._joined: Joined | None = None
        self._previous: Joined | None = None
        """Groups that were left at the last boundary: a slower member may still be reading from them."""
        self._mean: Mean | None = None
        self._over = self._concluding = False
        self._busy_since = self._reported_at = clock()
        self._reported = 0

    def recall(self) -> Sequence[m.FromWorker]:
        """What a link that knows nothing of this worker has to hear after ``Ready``."""
        work, plan = self._work, self._plan
        if plan is not None:
            return [m.Computing(plan, work.done)]
        if self._concluding:
            return [m.Finished(work.done)]
        return [m.Stalled(0, work.done, work.holds)]

    def pulse(self) -> m.Heartbeat:
        return m.Heartbeat(self._work.done, self._clock() - self._busy_since)

    def run(self) -> None:
        """Work until nothing is left to do here. Raises what the trainable raises."""
        while not self._over:
            if self._plan is None:
                self._wait()
            else:
                self._compute(self._plan)
        self._saver.close()

    # ---- waiting

    def _wait(self) -> None:
        order = self._inbox.next(_LOOK_S)
        self._busy_since = self._clock()
        match order:
            case m.Enter(generation):
                self._enter(generation)
            case m.Abandon(generation):
                self._leave()
                self._say(m.Stalled(generation, self._work.done, self._work.holds))
            case m.Conclude():
                path = self._saver.save_now(self._work.state, self._progress(), result=True)
                self._say(m.Concluded(self._work.done, path))
            case m.End(save):
                if save and self._saver.on_warning:
                    self._save_now()
                self._over = True
            case m.Refused(what):
                raise QuiltworkError(what, where=self._settings.worker)
            case None if self._lost_for() > self._settings.orphan_s:
                self._be_orphaned()

    def _enter(self, generation: int) -> None:
        """Take part in a plan, together with others who do not compute either, or as a newcomer."""
        began = self._clock()
        joined = self._joining.take(generation)
        if joined is None:  # the link was lost in between
            self._say(m.Broken(generation, "the plan was dropped"))
            return
        plan, work, me = joined.plan, self._work, self._settings.worker
        try:
            if me == plan.source:
                if plan.restore:
                    self._restore()
                self._send(joined)
            elif joined.transfer is not None:
                work.holds = False
                state, beside = receive_state(joined.transfer)
                there = progress_from(beside, "what was received")
                work.load(state, there.done, there.finished, there.course)
        except GroupBroken as error:
            self._say(m.Broken(generation, str(error)))
            return
        if me in plan.members:
            self._adopt(joined, began)

    def _restore(self) -> None:
        found = self._saver.restore()
        if found is not None:
            there = found.progress
            self._work.load(found.state, there.done, there.finished, there.course)
        elif not self._work.holds:
            self._work.begin_afresh()

    def _send(self, joined: Joined) -> None:
        if joined.transfer is not None:
            send_state(joined.transfer, self._work.state(), self._progress().to_json())

    def _adopt(self, joined: Joined, began: float) -> None:
        """Be a member of that plan from the next step on. ``began`` is when the pause did."""
        plan, work, group = joined.plan, self._work, joined.compute
        rank = plan.members.index(self._settings.worker)
        work.resize(rank, len(plan.members))
        if self._settings.logical is not None and work.layout is not None:
            self._mean = in_parts(work.gradients, work.layout, self._settings.logical, group)
        elif group is not None and work.layout is not None:
            self._mean = together(work.gradients, work.layout, group)
        else:
            self._mean = alone(work.gradients)
        self._previous, self._joined, self._plan = self._joined, joined, plan
        if rank == 0:
            self._saver.begin()
        now = self._clock()
        self._busy_since, self._reported_at, self._reported = now, -1.0, work.done
        self._say(m.Resized(plan.generation, work.done, now - began))
        if work.finished:
            self._finish()

    # ---- computing

    def _compute(self, plan: m.Plan) -> None:
        work = self._work
        going: int | None = None

        def mark() -> bool:
            nonlocal going
            going = self._inbox.going()
            return going is not None and going > plan.generation

        work.set_rate()
        try:
            if work.elastic:
                assert self._mean is not None
                mean, marks = self._mean(work.next_samples(), mark)
                report = work.apply(mean)
                agreed = marks == len(plan.members)
            else:
                report = work.step()
                agreed = mark()
        except GroupBroken as error:
            self._stall(m.Broken(plan.generation, str(error)))
            return
        self._took(plan, report)
        self._boundary(plan, going if agreed else None)

    def _took(self, plan: m.Plan, report: StepReport) -> None:
        now = self._clock()
        self._log.add(StepTime(now, report.done, plan.generation))
        self._busy_since = now
        self._previous = None
        first = self._reported_at < 0
        if first or report.finished or now - self._reported_at >= _REPORT_S:
            steps = max(report.done - self._reported, 1)
            each = 0.0 if first else (now - self._reported_at) / steps
            metrics = {name: float(value) for name, value in report.metrics.items()}
            self._say(m.Step(plan.generation, report.done, report.total, report.finished, each, metrics))
            self._reported_at, self._reported = now, report.done

    def _boundary(self, plan: m.Plan, going: int | None) -> None:
        """Between two steps."""
        warned = self._inbox.take_warning()
        first = plan.members[0] == self._settings.worker
        if self._work.finished:
            self._finish()
        elif self._inbox.void(plan.generation):
            self._stall(None)
        elif self._lost_for() > self._settings.orphan_s:
            self._be_orphaned()
        else:
            if first and warned and self._saver.on_warning:
                self._save_now()
            elif first and self._saver.due():
                self._saver.save(self._work.state, self._progress())
            if going is not None:
                self._change(plan, going)

    def _change(self, before: m.Plan, generation: int) -> None:
        """All are at this boundary, and know it."""
        began = self._clock()
        me = self._settings.worker
        joined = self._joining.take(generation)
        self._inbox.switched()
        if joined is None:  # the link was lost after all had agreed
            self._stall(m.Broken(before.generation, "the plan was dropped"))
            return
        plan = joined.plan
        self._say(m.Switched(generation, self._work.done))
        try:
            if me == plan.source:
                self._send(joined)
        except GroupBroken as error:
            self._stall(m.Broken(generation, str(error)))
            return
        if me in plan.members:
            self._adopt(joined, began)
            return
        # The old group stays until the end: another member may still be reading the last mean from it.
        self._plan, self._busy_since = None, self._clock()

    def _stall(self, said: m.Broken | None) -> None:
        """Leave the group and wait. The state is whole: it is what it was after the last step that was taken."""
        self._leave()
        if said is not None:
            self._say(said)

    def _leave(self) -> None:
        self._plan = self._mean = self._joined = self._previous = None
        self._busy_since = self._clock()

    def _finish(self) -> None:
        """The last step is taken. The group stays until the end, as others may still be reading from it."""
        self._plan, self._concluding = None, True
        self._say(m.Finished(self._work.done))

    # ---- saving

    def _progress(self) -> Progress:
        return Progress(self._work.done, self._work.finished, self._work.course)

    def _save_now(self) -> None:
        if self._work.holds:
            self._saver.save_now(self._work.state, self._progress())

    def _be_orphaned(self) -> None:
        """Nobody is there who could tell what to do: save what there is, and end."""
        if self._work.holds:
            self._saver.save_now(self._work.state, self._progress(), result=self._work.finished)
        raise QuiltworkError(f"nobody was there for {self._settings.orphan_s:g} seconds", where=self._settings.link)
