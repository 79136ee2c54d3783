"""How the learning rate follows the batch."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.cluster.elastic.course import begun, course_from, rate_of, resized
from quiltwork.cluster.elastic.rates import RULES, learning_rate
from quiltwork.cluster.spec import LearningRate
from quiltwork.core.errors import BadInputError

sizes = st.integers(1, 4096)


def test_the_rules_are_those_of_their_names():
    assert learning_rate(0.1, "linear", 64, 32, since=10, warmup=10) == pytest.approx(0.2, rel=1e-15)
    assert learning_rate(0.1, "sqrt", 64, 32, since=10, warmup=10) == pytest.approx(0.1 * math.sqrt(2), rel=1e-15)
    assert learning_rate(0.1, "none", 64, 32, since=10, warmup=10) == 0.1
    with pytest.raises(BadInputError, match="lr: rule: 'cubic' is not a rule"):
        learning_rate(0.1, "cubic", 64, 32, since=0, warmup=0)


def test_a_higher_rate_is_reached_in_a_straight_line_and_a_lower_one_holds_at_once():
    rising = [learning_rate(1.0, "linear", 96, 32, since, warmup=4) for since in range(6)]
    assert rising == pytest.approx([1.0, 1.5, 2.0, 2.5, 3.0, 3.0], rel=1e-15)
    assert learning_rate(1.0, "linear", 16, 32, since=0, warmup=4) == 0.5


@given(
    st.sampled_from(RULES), sizes, st.lists(st.tuples(st.integers(1, 64), st.integers(0, 400)), min_size=1, max_size=8)
)
def test_back_at_the_first_workers_the_rate_is_the_first_one_whatever_was_in_between(rule, local, changes):
    lr, workers = LearningRate(0.037, rule, warmup_steps=100), 4
    course, done = begun("fixed_local", local, workers), 0
    first = rate_of(course, lr, done)
    for now, steps in [*changes, (workers, 0)]:
        course = resized(course, "fixed_local", now, done)
        assert course.batch == local * now
        done += steps
    assert rate_of(course, lr, done) == pytest.approx(first, rel=1e-12)
    assert first == pytest.approx(0.037, rel=1e-12)


@given(sizes, st.integers(1, 64), st.integers(1, 64), st.integers(0, 1000))
def test_with_the_whole_batch_fixed_neither_batch_nor_rate_change(size, before, after, done):
    course = begun("fixed_global", size, before)
    now = resized(course, "fixed_global", after, done)
    assert now == course
    assert rate_of(now, LearningRate(0.5), done) == 0.5


@given(sizes, sizes, st.integers(0, 300), st.sampled_from(RULES))
def test_a_rate_stays_between_the_first_one_and_the_scaled_one(batch, first, since, rule):
    rate = learning_rate(1.0, rule, batch, first, since, warmup=200)
    end = learning_rate(1.0, rule, batch, first, 200, warmup=200)
    assert min(1.0, end) <= rate <= max(1.0, end)


def test_the_warm_up_counts_from_the_last_change_of_the_batch():
    lr = LearningRate(1.0, "linear", warmup_steps=10)
    course = resized(begun("fixed_local", 8, 1), "fixed_local", 2, done=100)
    same = resized(course, "fixed_local", 2, done=105)
    assert [rate_of(same, lr, done) for done in (100, 105, 110)] == pytest.approx([1.0, 1.5, 2.0])


def test_a_course_survives_json():
    course = resized(begun("fixed_local", 8, 2), "fixed_local", 3, done=7)
    assert course_from(course.to_json(), "x") == course
    with pytest.raises(BadInputError, match="file: batch: 0 cannot be"):
        course_from({**course.to_json(), "batch": 0}, "file")


@pytest.mark.parametrize(("mode", "size", "workers"), [("fixed", 1, 1), ("fixed_local", 0, 1), ("fixed_global", 3, 0)])
def test_what_is_no_batch_is_refused(mode, size, workers):
    with pytest.raises(BadInputError, match="batch"):
        begun(mode, size, workers)
