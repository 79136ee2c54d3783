"""What a job's own reports say of how long it will still run."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.cluster.policy.progress import FARTHEST, MOST_ODD, Running, hear

EVERY = 10.0


class Told:
    """A run of one worker since time 0, and what is believed of it."""

    def __init__(self, believed=None):
        self.heard, self.believed, self.odd = None, believed, []

    def say(self, now, steps, total=1000, done=None):
        done = now if done is None else done
        belief = hear(self.heard, now, steps, total, Running(done, 1.0, now, self.believed), EVERY)
        if belief is not None:
            self.heard, self.believed = belief.heard, belief.believed
            self.odd += [belief.odd] if belief.odd else []
        return belief

    def left(self, now):
        return self.believed - now


def test_where_nothing_was_believed_it_is_the_steps_left_at_the_measured_pace():
    run = Told()
    run.say(5, 20)
    assert run.believed is None  # how long it took to begin says nothing of its pace
    run.say(25, 60)
    assert run.left(25) == pytest.approx(940 / 2)


@pytest.mark.parametrize("true_pace", [0.2, 1, 5])
def test_a_wrong_estimate_is_left_behind_within_some_reports(true_pace):
    run = Told(believed=2000.0)
    for turn in range(21):
        run.say(10 * turn, round(10 * turn * true_pace), 2000)
    assert run.left(200) == pytest.approx(2000 / true_pace - 200, rel=0.05)


@pytest.mark.parametrize("factor", [0.01, 0.5, 2, 10])
def test_one_noisy_report_moves_what_is_left_by_half_at_most(factor):
    run = Told(believed=10_000.0)
    steps = 0.0
    for turn in range(20):
        steps += 10
        run.say(10 * turn, round(steps), 10_000)
    before = run.left(190)
    run.say(220, round(steps + max(1, 30 * factor)), 10_000)
    assert before / 1.6 < run.left(220) + 30 < before * 1.6


def test_reports_do_not_count_more_often_than_asked_and_seldom_in_a_long_run():
    run = Told(believed=36_000.0)
    counted = [now for now in range(0, 36_000, 2) if run.say(now, now, 40_000) is not None]
    assert min(b - a for a, b in itertools.pairwise(counted)) >= EVERY
    assert len(counted) < 120


def test_workers_that_come_do_not_look_like_a_job_that_got_faster():
    """Pace is by work: four workers do four times the steps and four times the work."""
    run = Told(believed=1000.0)
    run.say(10, 10, done=10.0)
    run.say(20, 50, done=50.0)
    assert run.believed == pytest.approx(1000.0)


def test_a_job_that_says_no_total_keeps_its_estimate():
    run = Told(believed=500.0)
    assert run.say(10, 10, None) is None
    assert run.say(30, 20, None) is None
    assert run.believed == 500.0


@pytest.mark.parametrize(
    ("steps", "total", "said"),
    [
        (math.nan, 10, "nan is not a number of steps"),
        (5, math.nan, "nan is not a number of steps"),
        (math.inf, None, "inf is not a number of steps"),
        (-1, 10, "-1 is not a number of steps"),
        (11, 10, "11 steps of 10 are done"),
        (0, 0, "0 steps of 0 are done"),
        (2**60, 2**61, "is not a number of steps"),
        (True, 10, "is not a number of steps"),
        (30, 1000, "went back from 40 to 30 steps"),
    ],
)
def test_what_cannot_be_is_told_and_changes_no_belief(steps, total, said):
    run = Told(believed=500.0)
    run.say(10, 20)
    run.say(30, 40)
    before = run.believed
    run.say(50, steps, total)
    assert run.believed == before
    assert len(run.odd) == 1
    assert said in run.odd[0]


def test_who_cannot_be_believed_again_and_again_is_not_listened_to():
    run = Told(believed=500.0)
    for turn in range(50):
        run.say(20 * turn, 10 if turn % 2 else 20)
    assert len(run.odd) == MOST_ODD
    assert "not believed any more" in run.odd[-1]
    believed = run.believed
    assert run.say(2000, 999) is None
    assert run.believed == believed


def test_one_that_goes_on_from_a_checkpoint_is_measured_from_there():
    run = Told(believed=1000.0)
    for now in range(0, 200, 10):
        run.say(now, now)
    run.say(200, 100)
    for now in range(210, 320, 10):
        run.say(now, 100 + now - 200)
    assert run.left(310) == pytest.approx(1000 - 210, rel=0.1)


@given(
    st.lists(st.tuples(st.floats(0, 500), st.integers(-5, 2000), st.none() | st.integers(-5, 2000)), max_size=30),
    st.none() | st.floats(1, 1e6),
)
def test_whatever_is_said_belief_is_a_number_and_moves_by_bounded_steps(said, believed):
    run, now = Told(believed), 0.0
    for seconds, steps, total in said:
        before, since = run.believed, run.heard
        now += seconds
        belief = run.say(now, steps, total)
        if belief is None or before == run.believed or before is None:
            continue
        assert math.isfinite(run.believed)
        left = max(before - now, 0.0)
        assert left / FARTHEST * 0.999 <= run.left(now) + 1e-6
        assert run.left(now) <= max(left * FARTHEST, now - since.work) * 1.001 + 1e-6
