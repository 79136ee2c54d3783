"""What a job's workers are told, out of what they say and what is wanted. No clock, no sockets.

The life of a change, while the others compute:

1. A newcomer says that it is ``Ready``: model and data are built.
2. All whom the change touches are told to ``Prepare`` a plan, connect beside their work, and say ``Prepared``.
3. Those who compute are told to ``Go``. Each adds a mark to its next gradient; at the step whose marks are as many as
   the workers, all know that all know, and that step's end is the boundary.
4. There they say ``Switched``; newcomers are told to ``Enter``, and get the state from one who has it.
5. Each says ``Resized`` and takes its next step. When all have, whoever leaves is told to ``End``: until then it keeps
   its place in the old group, and its state, in case one of the others does not come to the boundary.

When somebody is lost, all others are told to ``Abandon`` and say how far their state is (``Stalled``). The state that
is furthest is handed to the rest, by a plan that all of them ``Enter``. Only where nobody holds a whole state does the
newest checkpoint count.

That loses nothing, and this is why. A state changes only in ``apply``, which is called only with the finished mean of
all workers; a step that fails before has changed nothing, since ``gradients`` does not. An all-reduce ends at one
worker only when every other has put its share into what that worker got. So a survivor's state is a whole one between
two steps, and survivors are at most one step apart: some had the mean and applied it, the others got an error in its
place. The one ahead is where an undisturbed run would be, the lost worker's samples included. As the position in the
data is part of the state, no sample is repeated or left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from quiltwork.cluster.elastic import message as m
from quiltwork.cluster.elastic.roster import Phase, Worker, plan_for, target, why_not

ATTEMPTS = 3
"""How often a group is tried to be made, without a step in between, before somebody is told."""


class Coordinator:
    """The state of one job's group, and the rules by which it changes. Not thread-safe."""

    def __init__(self) -> None:
        self._wanted: tuple[str, ...] | None = None
        self._were_wanted: set[str] = set()
        self._refused: set[str] = set()
        self._workers: dict[str, Worker] = {}
        self._generation = 0
        self._current: m.Plan | None = None
        self._pending: m.Plan | None = None
        self._involved: set[str] = set()
        """Whom the pending plan touches, those who leave included."""
        self._prepared: set[str] = set()
        self._gone = False
        """Whether the pending plan has been set going, so that it can no longer be called off."""
        self._switched = False
        """Whether somebody has come to the boundary: then all have what they need to come to it."""
        self._resized: dict[str, m.Resized] = {}
        self._broken: int | None = None
        """Up to which generation all is void."""
        self._stalling: set[str] = set()
        self._missing: set[str] = set()
        self._fruitless, self._why, self._done = 0, "", -1
        self._finished: list[str] = []
        self._concluder: str | None = None
        self._over = False
        self._orders: list[tuple[str, m.ToWorker]] = []
        self._news: list[m.Regrouped | m.Failed] = []

    # ---- what comes out

    @property
    def members(self) -> tuple[str, ...]:
        """Who computes now, by rank; nobody while a group is being made anew."""
        return () if self._current is None else self._current.members

    @property
    def missing(self) -> frozenset[str]:
        """Members of a group taken over from a link that is no more, who have not come back yet: nothing is begun
        before they have, or are called ``lost``."""
        return frozenset(self._missing)

    def take_orders(self) -> list[tuple[str, m.ToWorker]]:
        """What is to be sent, to whom, in this order; each once."""
        orders, self._orders = self._orders, []
        return orders

    def take_news(self) -> list[m.Regrouped | m.Failed]:
        """What there is to report of the job as a whole; each once."""
        news, self._news = self._news, []
        return news

    # ---- what goes in

    def want(self, members: Sequence[str]) -> None:
        """Who shall compute from the next possible step boundary on, by rank (``roster.target``); nobody stops the job.

        One who is connected but was never wanted waits until it is; one who was and is no longer leaves.
        """
        self._wanted = tuple(dict.fromkeys(members))
        self._were_wanted |= set(self._wanted)
        self._advance()

    def warn(self) -> None:
        """Have a checkpoint written at the next boundary; while nobody computes, at the first one that comes."""
        for name in self._workers:
            if not self._ended(name):
                self._order(name, m.Warn())

    def connected(self, name: str) -> None:
        """A worker has said hello; it is building what it needs, or has come back."""
        self._workers[name] = Worker()
        self._advance()

    def lost(self, name: str) -> None:
        """A worker's connection has ended, or it was silent for too long."""
        worker = self._workers.pop(name, None)
        self._missing.discard(name)
        self._stalling.discard(name)
        if name in self._finished:
            self._finished.remove(name)
        needed = name in self._needed() and (worker is None or worker.phase is not Phase.ENDING)
        if needed and not self._finished and not self._over and self._broken is None:
            self._break(f"{name} has gone")
        self._settle()
        self._advance()

    def heard(self, name: str, said: m.FromWorker) -> None:
        """A worker has said something."""
        worker = self._workers.get(name)
        if worker is None:
            return
        if isinstance(said, m.Computing | m.Stalled | m.Finished | m.Failed | m.Left):
            self._missing.discard(name)
        match said:
            case m.Ready():
                worker.ready = said
                if not said.again:
                    worker.phase = Phase.READY
            case m.Computing():
                self._came_back(name, worker, said)
            case m.Prepared(generation) if self._awaits(generation):
                self._prepared.add(name)
            case m.Unprepared(generation, what) if self._awaits(generation) and not self._gone:
                self._could_not(what)
            case m.Switched(generation, done) if self._awaits(generation):
                self._came_to_boundary(name, worker, done)
            case m.Resized(generation) if self._awaits(generation):
                worker.phase, worker.held = Phase.COMPUTING, None
                self._resized[name] = said
            case m.Broken(generation, what):
                self._noticed(generation, what)
            case m.Stalled():
                self._stalled(name, worker, said)
            case m.Step() if said.done > self._done:
                self._done, self._fruitless = said.done, 0
            case m.Leaving() | m.Failed():
                worker.leaving = True
            case m.Finished():
                self._finished.append(name)
                self._call_off()
            case m.Concluded():
                self._over = True
            case m.Left():
                worker.phase, worker.leaving = Phase.ENDING, True
                self._stalling.discard(name)
                self._settle()
        self._advance()

    # ---- the rules

    def _order(self, name: str, order: m.ToWorker) -> None:
        self._orders.append((name, order))

    def _awaits(self, generation: int) -> bool:
        return self._pending is not None and self._pending.generation == generation

    def _advance(self) -> None:
        """All that can be done now."""
        if self._over:
            self._dismiss(self._workers)
        elif self._finished:
            self._conclude()
        elif self._broken is None and not self._missing:
            self._refuse_misfits()
            while self._wanted is not None and (self._begin() or self._push()):
                pass
            self._dismiss_unwanted()

    def _target(self) -> tuple[str, ...] | None:
        wanted = tuple(name for name in self._wanted or () if name not in self._refused)
        return target(self._workers, wanted, self.members)

    def _begin(self) -> bool:
        """Make a plan, where who computes is not who should."""
        members = self._target()
        if self._pending is not None or members is None or members == self.members:
            return False
        self._generation += 1
        self._pending = plan = plan_for(self._generation, members, self._workers, self.members)
        self._involved = {*plan.members, plan.source, *self.members}
        self._prepared, self._resized, self._gone, self._switched = set(), {}, False, False
        for name in sorted(self._involved):
            self._order(name, m.Prepare(plan))
        return True

    def _push(self) -> bool:
        """Take the pending plan as far as it can go; whether there may be something to begin then."""
        plan = self._pending
        if plan is None:
            return False
        if not self._gone:
            if self._target() != plan.members or not self._involved <= self._workers.keys():
                self._call_off()
                return True
            if not self._involved <= self._prepared:
                return False
            self._set_going(plan)
        if plan.members and set(plan.members) <= self._resized.keys():
            self._taken_up(plan)
        elif not plan.members and all(self._phase(name) is not Phase.COMPUTING for name in self.members):
            self._current = self._pending = None
        return self._pending is None

    def _set_going(self, plan: m.Plan) -> None:
        self._gone = True
        if self._current is None:
            self._enter(self._involved)
        for name in self.members:
            self._order(name, m.Go(plan.generation))
            # From here on it counts on leaving: being wanted again would come too late.
            self._workers[name].leaving |= name not in plan.members

    def _came_to_boundary(self, name: str, worker: Worker, done: int) -> None:
        assert self._pending is not None
        if not self._switched:
            self._switched = True
            self._enter(self._pending.receivers)
        if name not in self._pending.members:
            worker.phase, worker.held = Phase.READY, done

    def _enter(self, names: Iterable[str]) -> None:
        assert self._pending is not None
        for name in sorted(names):
            self._order(name, m.Enter(self._pending.generation))

    def _taken_up(self, plan: m.Plan) -> None:
        self._current, self._pending = plan, None
        for worker in self._workers.values():
            worker.held = None  # whoever still waits with a state now has an old one
        told = [self._resized[name] for name in plan.members]
        pause_s = max(one.pause_s for one in told)
        self._news.append(m.Regrouped(plan.generation, plan.members, told[0].done, pause_s))

    def _call_off(self) -> None:
        """Drop a plan that has not been set going."""
        if self._pending is not None and not self._gone:
            for name in sorted(self._involved & self._workers.keys()):
                self._order(name, m.Cancel(self._pending.generation))
            self._pending = None

    def _could_not(self, what: str) -> None:
        """A plan's members did not find each other. A job that computes goes on without those who wanted to join."""
        plan = self._pending
        assert plan is not None
        self._call_off()
        self._fruitless, self._why = self._fruitless + 1, what
        if self._fruitless < ATTEMPTS:
            return
        if self._current is None:
            self._give_up()
        else:
            self._fruitless = 0
            for name in plan.receivers:
                self._refuse(name, f"could not be connected with the others: {what}")

    # ---- when somebody is gone

    def _needed(self) -> set[str]:
        """Without whom the group cannot go on as it is."""
        plan = self._pending
        if plan is None or not self._gone:
            return set(self.members)
        entering = {*plan.members, *({plan.source} if plan.receivers else ())}
        return entering if self._switched else entering | set(self.members)

    def _noticed(self, generation: int, what: str) -> None:
        current = self._current is not None and self._current.generation == generation
        pending = self._awaits(generation) and self._gone
        if (current or pending) and self._broken is None and not self._finished and not self._over:
            self._break(what)

    def _break(self, what: str) -> None:
        """All stop, and say what they have."""
        self._call_off()
        plans = [plan for plan in (self._current, self._pending) if plan is not None]
        self._broken = max(plan.generation for plan in plans)
        touched = {name for plan in plans for name in (*plan.members, plan.source)}
        self._stalling = {name for name in touched if not self._ended(name)}
        for name in sorted(self._stalling):
            self._order(name, m.Abandon(self._broken))
        self._current = self._pending = None
        self._fruitless, self._why = self._fruitless + 1, what

    def _stalled(self, name: str, worker: Worker, said: m.Stalled) -> None:
        worker.phase, worker.held = Phase.READY, None
        if said.whole and self._current is None:  # else others have gone on without it, and are further
            worker.held = said.done
            self._done = max(self._done, said.done)
        if self._broken is not None and said.generation >= self._broken:
            self._stalling.discard(name)
            self._settle()

    def _settle(self) -> None:
        """Once all have stopped, there can be a new plan."""
        if self._broken is not None and not self._stalling:
            self._broken = None
            if self._fruitless > ATTEMPTS:
                self._give_up()

    def _give_up(self) -> None:
        self._news.append(m.Failed(f"the group broke or was not made {ATTEMPTS} times without a step: {self._why}"))
        self._over = True

    def _came_back(self, name: str, worker: Worker, said: m.Computing) -> None:
        """One that lost its connection to us, or to who was here before us, and went on."""
        plan = said.plan
        if self._current is None and self._pending is None and self._generation < plan.generation:
            self._current, self._generation = plan, plan.generation
            self._missing = set(plan.members) - {name}
        if self._current is not None and self._current.generation == plan.generation:
            worker.phase = Phase.COMPUTING
        else:
            self._order(name, m.Abandon(plan.generation))

    # ---- the end

    def _phase(self, name: str) -> Phase | None:
        return self._workers[name].phase if name in self._workers else None

    def _ended(self, name: str) -> bool:
        return self._phase(name) in (None, Phase.ENDING)

    def _conclude(self) -> None:
        """One of those who finished writes the result; all end when it has."""
        if self._concluder not in self._finished:
            ranked = [name for name in self.members if name in self._finished]
            self._concluder = (ranked or self._finished)[0]
            self._order(self._concluder, m.Conclude())

    def _refuse_misfits(self) -> None:
        """Send away who is wanted, and cannot compute with the others."""
        able = [name for name in self._wanted or () if name in self._workers and self._workers[name].able]
        first = next((name for name in able if name in self.members), None) or next(iter(able), None)
        for name in able:
            if name != first and name not in self.members and (what := why_not(self._workers, name, first)) is not None:
                self._refuse(name, what)

    def _refuse(self, name: str, what: str) -> None:
        if not self._ended(name):
            self._workers[name].phase, self._workers[name].leaving = Phase.ENDING, True
            self._refused.add(name)
            self._order(name, m.Refused(what))

    def _dismiss_unwanted(self) -> None:
        """Send away who waits, and is leaving or was needed once."""
        if self._pending is None:
            idle = [name for name in self._workers if name not in self.members]
            past = self._were_wanted - set(self._wanted or ())
            self._dismiss([name for name in idle if self._workers[name].leaving or name in past])

    def _dismiss(self, names: Iterable[str]) -> None:
        """Send workers away. Where the last state would go with them, the one who is furthest saves it."""
        going = [name for name in names if not self._ended(name)]
        held = {name: worker.held for name, worker in self._workers.items() if worker.held is not None}
        keeper = None
        if self._current is None and held and set(held) <= set(going):
            keeper = max(sorted(held), key=lambda name: held[name])
        for name in going:
            self._workers[name].phase = Phase.ENDING
            self._order(name, m.End(save=name == keeper))
