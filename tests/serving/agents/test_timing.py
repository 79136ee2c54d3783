from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.serving.agents.timing import FIRST_HANDLING, SURPRISE, Handlings

MB = 1 << 20


def test_what_moves_cost_is_learnt_by_their_size() -> None:
    handlings = Handlings()
    for i in range(40):
        for nbytes in (MB, 8 * MB, 32 * MB):
            handlings.learn(nbytes, 2e-3 + 2.5e-9 * nbytes, now=i * 0.1)
    found = handlings.now(4.0)
    assert found.byte_s == pytest.approx(2.5e-9, rel=0.05)
    assert found.seconds(16 * MB) == pytest.approx(2e-3 + 2.5e-9 * 16 * MB, rel=0.05)


def test_moves_of_one_size_are_predicted_at_that_size() -> None:
    handlings = Handlings()
    for i in range(20):
        handlings.learn(12 * MB, 0.06, now=i * 0.1)
    assert handlings.now(2.0).seconds(12 * MB) == pytest.approx(0.06, rel=0.05)


def test_a_move_that_was_held_up_is_not_believed_at_once() -> None:
    handlings = Handlings()
    before = handlings.now(0.0).seconds(12 * MB)
    handlings.learn(12 * MB, 100.0, now=0.0)
    assert handlings.now(0.0).seconds(12 * MB) < SURPRISE * before
    for i in range(20):
        handlings.learn(12 * MB, 1.0, now=0.1 * i)
    assert handlings.now(2.0).seconds(12 * MB) == pytest.approx(1.0, rel=0.1)


def test_what_was_dear_long_ago_is_tried_again() -> None:
    handlings = Handlings(memory_s=30.0)
    for i in range(20):
        handlings.learn(12 * MB, 1.0, now=0.1 * i)
    assert handlings.now(600.0).seconds(12 * MB) == pytest.approx(FIRST_HANDLING.seconds(12 * MB), rel=0.01)


@given(st.lists(st.tuples(st.integers(1, 1 << 32), st.floats(-1.0, 1e3)), max_size=20))
def test_no_move_is_ever_expected_to_cost_less_than_nothing(moves: list[tuple[int, float]]) -> None:
    handlings = Handlings()
    for nbytes, seconds in moves:
        handlings.learn(nbytes, seconds, now=0.0)
    found = handlings.now(0.0)
    assert found.fixed_s >= 0
    assert found.byte_s >= 0
