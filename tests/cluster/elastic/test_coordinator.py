"""What workers are told: whoever is wanted comes to compute, whatever happens on the way."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.cluster.elastic import message as m
from quiltwork.cluster.elastic.coordinator import ATTEMPTS, Coordinator


def ready(elastic=True, layout="x", again=False):
    return m.Ready(1, "127.0.0.1", elastic, "127.0.0.1:1", layout, again)


class Workers:
    """Workers by the book: each answers at once, steps are taken when told to."""

    def __init__(self, coordinator=None):
        self.coordinator, self.plans, self.told, self.news = coordinator or Coordinator(), {}, [], []
        self.computing, self.going, self.done = {}, {}, {}
        self.mute = set()
        """Who does not answer to ``Prepare``."""

    def join(self, *names, **other):
        for name in names:
            self.coordinator.connected(name)
            self.coordinator.heard(name, ready(**other))
        self.settle()

    def want(self, *names):
        self.coordinator.want(names)
        self.settle()

    def lose(self, *names):
        for name in names:
            self.computing.pop(name, None)
            self.coordinator.lost(name)
        self.settle()

    def settle(self):
        while orders := self.coordinator.take_orders():
            self.news += self.coordinator.take_news()
            for name, order in orders:
                self.told.append((name, order))
                self._obey(name, order)
        self.news += self.coordinator.take_news()

    def _obey(self, name, order):
        say = self.coordinator.heard
        match order:
            case m.Prepare(plan):
                self.plans[plan.generation] = plan
                if name not in self.mute:
                    say(name, m.Prepared(plan.generation))
            case m.Go(generation):
                self.going[name] = generation
            case m.Enter(generation):
                plan = self.plans[generation]
                if name in plan.receivers or plan.restore:
                    self.done[name] = self.done.get(plan.source, 0)
                if name in plan.members:
                    self.computing[name] = generation
                    say(name, m.Resized(generation, self.done[name], 0.1))
            case m.Abandon(generation):
                self.computing.pop(name, None)
                self.going.pop(name, None)
                say(name, m.Stalled(generation, self.done.get(name, 0), name in self.done))
            case m.Conclude():
                say(name, m.Concluded(self.done[name], "result"))
            case m.End() | m.Refused():
                self.computing.pop(name, None)
                say(name, m.Left())
                self.coordinator.lost(name)

    def step(self):
        """All who compute take a step, and change where all have been told to."""
        names = list(self.computing)
        for name in names:
            self.done[name] += 1
            self.coordinator.heard(name, m.Step(self.computing[name], self.done[name], None, False, 0.1, {}))
        going = {self.going.get(name) for name in names}
        if names and None not in going and len(going) == 1:
            (generation,) = going
            plan = self.plans[generation]
            for name in names:
                self.coordinator.heard(name, m.Switched(generation, self.done[name]))
                self.going.pop(name)
                if name in plan.members:
                    self.computing[name] = generation
                    self.coordinator.heard(name, m.Resized(generation, self.done[name], 0.2))
                else:
                    self.computing.pop(name)
        self.settle()

    def groups(self):
        return [one.members for one in self.news if isinstance(one, m.Regrouped)]

    def orders(self, kind):
        return [(name, order) for name, order in self.told if isinstance(order, kind)]


def test_a_job_begins_when_all_who_are_wanted_are_ready():
    workers = Workers()
    workers.want("a", "b")
    workers.join("b")
    assert workers.computing == {}
    workers.join("a")
    assert workers.groups() == [("a", "b")]
    assert workers.plans[1] == m.Plan(1, ("a", "b"), "a", ("b",), "127.0.0.1:1", restore=True)


def test_a_newcomer_joins_at_a_boundary_and_gets_the_state_of_one_who_computes():
    workers = Workers()
    workers.want("a", "b")
    workers.join("a", "b")
    workers.step()
    workers.want("b", "c", "a")
    workers.join("c")
    assert workers.groups() == [("a", "b")]
    workers.step()
    assert workers.groups() == [("a", "b"), ("b", "c", "a")]
    assert (workers.plans[2].source, workers.plans[2].receivers) == ("a", ("c",))
    assert workers.done == {"a": 2, "b": 2, "c": 2}
    assert workers.news[-1] == m.Regrouped(2, ("b", "c", "a"), 2, 0.2)


def test_newcomers_who_are_coming_are_waited_for_together_but_leavers_are_not_held():
    workers = Workers()
    workers.want("a", "b")
    workers.join("a", "b")
    workers.coordinator.connected("d")
    workers.want("a", "b", "c", "d")
    workers.join("c")
    workers.step()
    assert workers.groups() == [("a", "b")]
    workers.want("a", "c", "d")
    workers.step()
    assert workers.groups()[-1] == ("a", "c")
    workers.join("d")
    workers.step()
    assert workers.groups()[-1] == ("a", "c", "d")


def test_all_can_be_replaced_once_somebody_is_there_to_take_over():
    workers = Workers()
    workers.want("a")
    workers.join("a")
    workers.want("b")
    workers.step()
    assert workers.coordinator.members == ("a",)
    workers.join("b")
    workers.step()
    assert workers.coordinator.members == ("b",)
    assert (workers.plans[2].source, workers.done["b"]) == ("a", 2)


def test_a_change_of_mind_before_all_are_connected_calls_a_plan_off():
    workers = Workers()
    workers.want("a")
    workers.join("a", "b")
    workers.mute.add("b")
    workers.want("a", "b")
    workers.step()
    assert workers.groups() == [("a",)]
    workers.want("a")
    assert [name for name, _ in workers.orders(m.Cancel)] == ["a", "b"]
    assert workers.orders(m.End) == [("b", m.End())]
    workers.step()
    assert workers.coordinator.members == ("a",)


def test_one_that_was_never_wanted_waits_for_its_time():
    workers = Workers()
    workers.join("spare", "a")
    workers.want("a")
    assert workers.orders(m.End) == []
    workers.want("a", "spare")
    workers.step()
    assert workers.coordinator.members == ("a", "spare")


def test_survivors_go_on_with_the_state_that_is_furthest():
    workers = Workers()
    workers.want("a", "b", "c")
    workers.join("a", "b", "c")
    workers.step()
    workers.done["b"] += 1  # it had the mean of the next step when the third one died, the first one had not
    workers.lose("c")
    assert [name for name, _ in workers.orders(m.Abandon)] == ["a", "b"]
    assert workers.groups()[-1] == ("a", "b")
    assert (workers.plans[2].source, workers.plans[2].receivers, workers.plans[2].restore) == ("b", ("a",), False)
    assert workers.done == {"a": 2, "b": 2, "c": 1}


def test_a_broken_collective_stops_all_even_where_nobody_is_lost():
    workers = Workers()
    workers.want("a", "b")
    workers.join("a", "b")
    workers.coordinator.heard("a", m.Broken(1, "connection reset"))
    workers.settle()
    assert workers.groups() == [("a", "b"), ("a", "b")]
    workers.coordinator.heard("b", m.Broken(1, "connection reset"))  # of a group that is no more
    workers.settle()
    assert len(workers.groups()) == 2


def test_a_group_that_breaks_again_and_again_is_given_up():
    workers = Workers()
    workers.want("a", "b")
    workers.join("a", "b")
    for generation in range(1, ATTEMPTS + 2):
        workers.coordinator.heard("a", m.Broken(generation, "no route"))
        workers.settle()
    (failed,) = (one for one in workers.news if isinstance(one, m.Failed))
    assert "no route" in failed.what
    assert workers.computing == {}
    assert [order.save for _, order in workers.orders(m.End)] == [True, False]


def test_a_step_in_between_is_progress():
    workers = Workers()
    workers.want("a", "b")
    workers.join("a", "b")
    for generation in range(1, 3 * ATTEMPTS):
        workers.step()
        workers.coordinator.heard("a", m.Broken(generation, "no route"))
        workers.settle()
    assert set(workers.computing) == {"a", "b"}


def test_newcomers_who_cannot_be_connected_are_sent_away_and_the_job_goes_on():
    workers = Workers()
    workers.want("a")
    workers.join("a", "b")
    workers.mute.add("b")
    workers.want("a", "b")
    for generation in range(2, 2 + ATTEMPTS):
        workers.coordinator.heard("b", m.Unprepared(generation, "refused"))
        workers.settle()
    assert [name for name, _ in workers.orders(m.Refused)] == ["b"]
    workers.step()
    assert workers.coordinator.members == ("a",)


def test_when_nobody_is_left_new_workers_begin_from_the_checkpoint():
    workers = Workers()
    workers.want("a", "b")
    workers.join("a", "b")
    workers.lose("a", "b")
    workers.want("c")
    workers.join("c")
    assert workers.plans[max(workers.plans)].restore


def test_all_stop_at_one_boundary_when_nobody_is_wanted():
    workers = Workers()
    workers.want("a", "b")
    workers.join("a", "b")
    workers.want()
    assert set(workers.computing) == {"a", "b"}
    workers.step()
    assert (workers.computing, workers.coordinator.members) == ({}, ())


def test_one_that_was_asked_to_end_leaves_and_the_last_one_stops_the_job():
    workers = Workers()
    workers.want("a", "b")
    workers.join("a", "b")
    workers.coordinator.heard("a", m.Leaving())
    workers.settle()
    workers.step()
    assert workers.coordinator.members == ("b",)
    workers.coordinator.heard("b", m.Leaving())
    workers.settle()
    workers.step()
    assert (workers.coordinator.members, workers.plans[max(workers.plans)].members) == ((), ())


def test_survivors_who_are_not_wanted_save_what_they_hold():
    workers = Workers()
    workers.want("a", "b")
    workers.join("a", "b")
    workers.step()
    workers.coordinator.heard("a", m.Leaving())
    workers.settle()
    workers.coordinator.heard("b", m.Leaving())
    workers.lose("b")
    assert workers.orders(m.End) == [("a", m.End(save=True))]


def test_the_result_is_written_by_one_and_by_another_where_that_one_dies():
    coordinator = Coordinator()
    workers = Workers(coordinator)
    workers.want("a", "b", "c")
    workers.join("a", "b", "c")
    for name in ("b", "a", "c"):
        coordinator.heard(name, m.Finished(9))
    assert [name for name, _ in coordinator.take_orders()] == ["b"]
    coordinator.lost("b")
    assert coordinator.take_orders() == [("a", m.Conclude())]
    coordinator.heard("a", m.Concluded(9, "there"))
    assert {(name, type(order)) for name, order in coordinator.take_orders()} == {("a", m.End), ("c", m.End)}


def test_a_trainable_that_is_not_elastic_has_one_worker():
    workers = Workers()
    workers.want("a", "b")
    workers.join("a", "b", elastic=False)
    assert [name for name, _ in workers.orders(m.Refused)] == ["b"]
    assert workers.groups() == [("a",)]


def test_one_with_other_parameters_is_refused():
    workers = Workers()
    workers.want("a")
    workers.join("a")
    workers.want("a", "b", "c")
    workers.join("b", layout="y")
    workers.join("c")
    workers.step()
    ((name, order),) = workers.orders(m.Refused)
    assert (name, "parameters" in order.what) == ("b", True)
    assert workers.groups()[-1] == ("a", "c")


def test_workers_of_a_link_that_is_gone_are_taken_over_as_they_are():
    coordinator = Coordinator()
    plan = m.Plan(7, ("a", "b"), "a")
    for name in ("a",):
        coordinator.connected(name)
        coordinator.heard(name, ready(again=True))
        coordinator.heard(name, m.Computing(plan, 40))
    coordinator.want(["a", "b"])
    assert (coordinator.members, coordinator.missing) == (("a", "b"), {"b"})
    assert coordinator.take_orders() == []
    coordinator.connected("b")
    coordinator.heard("b", ready(again=True))
    coordinator.heard("b", m.Computing(plan, 40))
    assert (coordinator.missing, coordinator.take_orders()) == (set(), [])
    coordinator.want(["a"])
    assert [order.plan.generation for _, order in coordinator.take_orders()] == [8, 8]


def test_nothing_is_begun_with_workers_that_come_back_before_they_have_said_where_they_are():
    coordinator = Coordinator()
    plan = m.Plan(1, ("a", "b"), "a")
    coordinator.want(["a", "b"])
    for name in ("a", "b"):
        coordinator.connected(name)
        coordinator.heard(name, ready(again=True))
    assert coordinator.take_orders() == []
    for name in ("a", "b"):
        coordinator.heard(name, m.Computing(plan, 40))
    assert (coordinator.members, coordinator.take_orders()) == (("a", "b"), [])


def test_workers_that_come_back_with_a_state_start_from_it_and_not_from_a_checkpoint():
    coordinator = Coordinator()
    coordinator.want(["a", "b"])
    for name in ("a", "b"):
        coordinator.connected(name)
        coordinator.heard(name, ready(again=True))
    for name, done in (("a", 40), ("b", 41)):
        coordinator.heard(name, m.Stalled(0, done, True))
    begun = [order.plan for _, order in coordinator.take_orders() if isinstance(order, m.Prepare)][-1]
    assert (begun.source, begun.receivers, begun.restore) == ("b", ("a",), False)


def test_one_that_does_not_come_back_is_lost_and_the_rest_goes_on():
    coordinator = Coordinator()
    coordinator.connected("a")
    coordinator.heard("a", ready(again=True))
    coordinator.heard("a", m.Computing(m.Plan(7, ("a", "b"), "a"), 40))
    coordinator.want(["a", "b"])
    coordinator.lost("b")
    assert coordinator.take_orders() == [("a", m.Abandon(7))]
    coordinator.heard("a", m.Stalled(7, 40, True))
    ((_, order),) = coordinator.take_orders()
    assert (order.plan.members, order.plan.restore) == (("a",), False)


def test_one_that_computes_in_a_group_that_is_no_more_is_told():
    workers = Workers()
    workers.want("a", "b")
    workers.join("a", "b")
    workers.lose("b")
    coordinator = workers.coordinator
    coordinator.connected("b")
    coordinator.heard("b", ready(again=True))
    coordinator.heard("b", m.Computing(workers.plans[1], 0))
    assert ("b", m.Abandon(1)) in coordinator.take_orders()


def test_the_state_of_one_that_was_away_while_the_others_went_on_does_not_count():
    workers = Workers()
    workers.want("a", "b")
    workers.join("a", "b")
    workers.lose("b")
    workers.step()
    workers.coordinator.connected("b")
    workers.coordinator.heard("b", ready(again=True))
    workers.coordinator.heard("b", m.Computing(workers.plans[1], 0))
    workers.settle()
    workers.step()
    assert workers.coordinator.members == ("a", "b")
    assert (workers.plans[max(workers.plans)].source, workers.done["b"]) == ("a", 2)
    workers.want("a")
    workers.step()
    workers.coordinator.connected("c")
    workers.coordinator.heard("c", ready(again=True))
    workers.coordinator.heard("c", m.Stalled(0, 1, True))
    workers.lose("a")
    workers.want("c")
    assert workers.plans[max(workers.plans)].restore


class World:
    """Workers whose messages take their time, that die at any moment, and whose steps are all or nothing for each.

    A step's mean reaches its members one after the other; when one dies, those whom it has not reached get an error.
    """

    def __init__(self, rng, total=None):
        self.rng, self.coordinator, self.total = rng, Coordinator(), total
        self.concluded, self.mortal = [], 0
        """Steps behind each result that was written; how many may still die while they are at it."""
        self.to, self.back = {}, {}
        self.done, self.holds, self.plan, self.going, self.plans, self.seen = {}, {}, {}, {}, {}, {}
        self.reached, self.changes = {}, {}
        """By generation, the step whose mean is there for its members; by step, the change that was agreed on."""
        self.sending, self.offers = {}, {}
        """Leavers who have still to hand on the state, and to whom; by generation, the state that its source sends."""
        self.closed = set()
        self.failures = 1
        """How many transfers may fail with nobody dead."""
        self.taken = []
        """Steps in the order in which their mean came to be."""

    def start(self, name):
        self.to[name], self.back[name] = deque(), deque([None, ready()])
        self.done[name], self.holds[name], self.plan[name], self.seen[name] = 0, False, None, 0

    def alive(self):
        return [name for name in self.to if name in self.back]

    def die(self, name):
        del self.to[name]
        self.sending.pop(name, None)
        # What it said last may still arrive.
        self.back[name].append("gone")

    def say(self, name, message):
        self.back[name].append(message)

    def gone_from(self, plan):
        """Whether a member has died or has left the group. To come to the boundary is not to leave it."""
        return any(name not in self.to or (name, plan.generation) in self.closed for name in plan.members)

    def close(self, name, generation):
        """Leave all groups up to that one."""
        self.plan[name] = None
        self.closed |= {(name, one) for one in self.plans if one <= generation}

    def tick(self):
        """One thing happens, of all that could."""
        for to, order in self.coordinator.take_orders():
            if to in self.to:
                self.to[to].append(order)
        could = [("hear", name) for name, box in self.to.items() if box]
        could += [("said", name) for name, box in self.back.items() if box]
        # Nobody gets far ahead of what is heard of it.
        could += [("step", name) for name in self.to if self.plan[name] is not None and len(self.back[name]) < 5]
        could += [("sent", name) for name in self.to if name in self.sending]
        if not could:
            return False
        what, name = self.rng.choice(could)
        getattr(self, what)(name)
        return True

    def said(self, name):
        message = self.back[name].popleft()
        if message == "gone":
            del self.back[name]
            self.coordinator.lost(name)
        elif message is None:
            self.coordinator.connected(name)
        else:
            self.coordinator.heard(name, message)

    def hear(self, name):
        match self.to[name].popleft():
            case m.Prepare(plan):
                self.plans[plan.generation] = plan
                self.say(name, m.Prepared(plan.generation))
            case m.Go(generation):
                self.going[name] = generation
            case m.Enter(generation) if generation > self.seen[name]:
                self.enter(name, self.plans[generation])
            case m.Abandon(generation):
                self.close(name, generation)
                self.seen[name] = max(generation, self.seen[name])
                self.going.pop(name, None)
                self.sending.pop(name, None)
                self.say(name, m.Stalled(generation, self.done[name], self.holds[name]))
            case m.Conclude():
                assert self.holds[name]
                if self.mortal and self.rng.random() < 0.5:
                    self.mortal -= 1
                    self.die(name)
                    return
                self.concluded.append(self.done[name])
                self.say(name, m.Concluded(self.done[name], "result"))
            case m.End() | m.Refused():
                self.say(name, m.Left())
                self.die(name)

    def enter(self, name, plan):
        if name == plan.source:
            if plan.restore:
                self.done[name], self.holds[name] = max(self.taken, default=0), True  # every step was a checkpoint
            assert self.holds[name]
            self.offers[plan.generation] = self.done[name]
        if name in plan.receivers:
            self.holds[name] = False
            void = any(isinstance(order, m.Abandon) for order in self.to[name])
            fails = self.failures and self.rng.random() < 0.1
            if plan.source not in self.to or self.seen[plan.source] >= plan.generation or void or fails:
                self.failures -= bool(fails)
                self.broken(name, plan)
                return
            if plan.generation not in self.offers:
                self.to[name].appendleft(m.Enter(plan.generation))  # it waits for the one who has the state
                return
            self.done[name], self.holds[name] = self.offers[plan.generation], True
            self.sending.get(plan.source, (plan, set()))[1].discard(name)
        if name in plan.members:
            self.plan[name] = plan
            self.say(name, m.Resized(plan.generation, self.done[name], 0.0))
            self.finish(name)

    def finish(self, name):
        """Its last step may be taken; it keeps its place in the group."""
        if self.done[name] == self.total:
            self.plan[name] = None
            self.say(name, m.Finished(self.total))

    def step(self, name):
        plan = self.plan[name]
        at = self.done[name] + 1
        if self.reached.get(plan.generation, 0) < at:
            here = [n for n in plan.members if n in self.to and self.plan[n] is plan and self.done[n] == at - 1]
            if len(here) < len(plan.members):
                if self.gone_from(plan):
                    self.broken(name, plan)
                return
            # All are in the step: its mean comes to be, and whether all have agreed to change.
            assert all(self.done[n] < at for n in self.to if self.holds[n]), "a step is taken twice"
            self.reached[plan.generation] = at
            self.taken.append(at)
            marks = {self.going.get(n) for n in here}
            self.changes[plan.generation, at] = marks.pop() if len(marks) == 1 else None
        elif self.gone_from(plan) and self.rng.random() < 0.5 and self.done[name] < at:
            self.broken(name, plan)
            return
        self.done[name] = at
        self.say(name, m.Step(plan.generation, at, None, False, 0.0, {}))
        if at == self.total:
            self.finish(name)
        elif (going := self.changes[plan.generation, at]) is not None:
            self.change(name, plan, self.plans[going])

    def broken(self, name, plan):
        self.close(name, plan.generation)
        self.say(name, m.Broken(plan.generation, "peer"))

    def change(self, name, before, plan):
        self.going.pop(name, None)
        self.say(name, m.Switched(plan.generation, self.done[name]))
        if name == plan.source:
            self.offers[plan.generation] = self.done[name]
        if name in plan.members:
            self.plan[name] = plan
            self.say(name, m.Resized(plan.generation, self.done[name], 0.0))
            return
        self.plan[name] = None
        self.sending[name] = plan, set(plan.receivers if name == plan.source else ())

    def sent(self, name):
        """A leaver that has handed on the state waits for its end; where it cannot, it says so."""
        plan, to = self.sending[name]
        if not to:
            del self.sending[name]
        elif any(one not in self.to or self.seen[one] >= plan.generation for one in to):
            del self.sending[name]
            self.broken(name, plan)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9))
@pytest.mark.parametrize("deaths", [0, 2])
def test_whatever_happens_the_wanted_come_to_compute_and_no_step_is_lost_or_taken_twice(deaths, seed):
    rng, left = random.Random(seed), deaths
    world, names, fresh = World(rng), [], iter(range(10**6))
    for _ in range(rng.randint(1, 6)):
        names = [name for name in names if name in world.to]
        new = [f"w{next(fresh)}" for _ in range(rng.randint(0 if names else 1, 2))]
        for name in new:
            world.start(name)
        names = rng.sample([*names, *new], rng.randint(1, len([*names, *new])))
        world.coordinator.want(names)
        for _ in range(rng.randint(0, 120)):
            world.tick()
        if left and world.to and rng.random() < 0.6:
            left -= 1
            world.die(rng.choice(sorted(world.to)))

    def as_wanted():
        living = {name for name in names if name in world.to}
        said = [message for box in world.back.values() for message in box if not isinstance(message, m.Step)]
        return set(world.coordinator.members) == living and not said and not any(world.to.values())

    for _ in range(6000):
        if as_wanted() or not world.tick():
            break
    if not as_wanted():
        # One that died before the job had begun is waited for, until it is said who is wanted in its place.
        names = [name for name in names if name in world.to]
        world.coordinator.want(names)
        for _ in range(6000):
            if as_wanted() or not world.tick():
                break
    assert as_wanted()
    assert all(world.plan[name] is not None for name in world.coordinator.members)
    # A step can be taken again only after all who had taken it have died.
    assert sorted(set(world.taken)) == list(range(1, max(world.taken, default=0) + 1))
    assert deaths or len(set(world.taken)) == len(world.taken)


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 10**9))
def test_whoever_dies_at_the_end_a_result_of_the_last_step_is_written(seed):
    rng = random.Random(seed)
    world, fresh = World(rng, total=rng.randint(1, 3)), iter(range(10**6))
    names = [f"w{next(fresh)}" for _ in range(rng.randint(1, 3))]
    # No more than a job may break without a step before it is given up.
    deaths = rng.randint(0, ATTEMPTS)
    world.mortal, world.failures = rng.randint(0, ATTEMPTS - deaths), 0
    for name in names:
        world.start(name)
    world.coordinator.want(names)
    for _ in range(20_000):
        if deaths and world.to and rng.random() < 0.02:
            deaths -= 1
            world.die(rng.choice(sorted(world.to)))
        if not world.tick() and not world.to:
            if world.concluded:
                break
            # Somebody takes the place of those who are gone, as long as the job is not over.
            names = [f"w{next(fresh)}"]
            world.start(names[0])
            world.coordinator.want(names)
        elif len(names) > 1 and rng.random() < 0.02:
            names = [*rng.sample(names, len(names) - 1), f"w{next(fresh)}"]
            world.start(names[-1])
            world.coordinator.want(names)
    assert set(world.concluded) == {world.total}
    assert not world.to
