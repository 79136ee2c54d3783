"""What stand-ins are worth in a simulated world: the live policy under virtual time, with and without it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from small_worlds import arrivals, cluster, piece

from quiltwork.core.errors import BadInputError
from quiltwork.serving.policy.queueing import QueueLimits
from quiltwork.serving.simulate import App, Arrival, Settings, simulate

LOWER, UPPER, OWN = piece("lower"), piece("upper", 8), piece("own", 8)
BASE, TUNED, ADAPTED = App("base", (LOWER, UPPER)), App("tuned", (LOWER, OWN)), App("adapted", (LOWER, UPPER))
MAY = replace(TUNED, stand_ins=("adapted",))
SMALL = Settings(limits=QueueLimits(rows=64, sequences=16), prefill_chunk=32, replicate=False, swap=False)
TWO = cluster((2,))
SPREAD = {"s0g0": [LOWER.instance, UPPER.instance], "s0g1": [LOWER.instance, OWN.instance]}


def run(tuned=MAY, *, asked=("tuned",), count=60, rate=40.0, placed=SPREAD, **changes):
    apps = (BASE, tuned, ADAPTED)
    wanted = arrivals([app for app in apps if app.name in asked], count, rate, seed=3)
    return simulate(TWO, apps, wanted, replace(SMALL, **changes), placed)


def test_where_the_exact_chain_is_overloaded_some_are_answered_by_its_stand_in_and_all_sooner():
    without, having = run(assemble=False), run()
    assert (without.assembled, len(without.finished)) == (0, 60)
    assert 0 < having.assembled < 60
    assert len(having.finished) == 60
    assert having.latency(0.95) < without.latency(0.95)
    assert having.tokens == without.tokens


def test_alone_in_an_idle_world_everybody_gets_the_exact_chain():
    lone = [Arrival(i, "tuned", 100.0 * i, 20, 5) for i in range(5)]
    assert simulate(TWO, (BASE, MAY, ADAPTED), lone, SMALL, SPREAD).assembled == 0


def test_one_that_runs_beside_busy_others_joins_their_batches():
    one = {"s0g0": [LOWER.instance, UPPER.instance, OWN.instance]}
    busy = [Arrival(i, "base", 0.0, 20, 60) for i in range(8)]
    guest = Arrival(99, "tuned", 0.5, 20, 20)
    world = cluster((1,))
    outcome = simulate(world, (BASE, MAY, ADAPTED), [*busy, guest], SMALL, one)
    assert outcome.assembled == 1
    without = simulate(world, (BASE, MAY, ADAPTED), [*busy, guest], replace(SMALL, assemble=False), one)
    assert outcome.seconds < without.seconds, "the others do not wait for batches of its own"


def test_where_the_exact_chain_is_nowhere_its_stand_in_answers():
    outcome = run(placed={"s0g0": [LOWER.instance, UPPER.instance]}, swap=True, count=1)
    assert outcome.assembled == 1
    assert outcome.loads == 0


def test_without_stand_ins_the_setting_changes_nothing():
    plain = [run(TUNED, asked=("tuned", "base"), assemble=on) for on in (True, False)]
    assert plain[0] == plain[1]


def test_a_stand_in_that_is_not_served_is_refused():
    with pytest.raises(BadInputError, match="nobody"):
        run(replace(TUNED, stand_ins=("nobody",)))


def test_what_it_saves_must_exceed_the_hysteresis():
    assert run(hysteresis=0.999).assembled == 0
