"""What steps cost is learnt from what they took."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quiltwork.serving.step_costs import FORGOTTEN, REFRESHED, StepCosts

RUNS = st.lists(st.tuples(st.integers(1, 300), st.floats(1e-6, 10.0)), min_size=1, max_size=60)


@given(RUNS, st.integers(1, 400), st.integers(1, 400))
def test_more_rows_never_look_cheaper(runs, a, b):
    costs = StepCosts()
    for rows, seconds in runs:
        for _ in range(2):
            costs.measured(rows, seconds)
    low, high = sorted((a, b))
    assert 0 < costs.seconds(low) <= costs.seconds(high)


def test_rows_between_known_ones_cost_in_proportion_and_beyond_as_the_whole_range_does():
    costs = StepCosts()
    for _ in range(2):
        costs.measured(2, 2.0)
        costs.measured(6, 4.0)
    assert costs.seconds(1) == 2.0
    assert costs.seconds(4) == 3.0
    assert costs.seconds(10) == 6.0


def test_one_known_number_of_rows_says_that_others_are_worth_a_try():
    costs = StepCosts()
    assert not costs.known
    costs.measured(1, 300.0)
    assert not costs.known, "a first run makes kernels"
    costs.measured(1, 3.0)
    assert costs.known
    assert costs.seconds(9) == 3.0


def test_a_pause_of_the_machine_counts_little_and_a_lasting_change_counts():
    costs = StepCosts()
    for _ in range(20):
        costs.measured(1, 1.0)
    costs.measured(1, 1000.0)
    assert costs.seconds(1) < 1.5
    for _ in range(60):
        costs.measured(1, 4.0)
    assert abs(costs.seconds(1) - 4.0) < 0.1


def test_what_was_not_measured_for_long_is_stale():
    costs = StepCosts()
    assert costs.stale(4)
    for _ in range(2):
        costs.measured(4, 1.0)
    assert not costs.stale(4)
    assert not costs.stale(5), "a number of rows a little smaller will do"
    assert costs.stale(3)
    for _ in range(REFRESHED):
        costs.measured(1, 1.0)
    assert costs.stale(4)


def test_what_was_dear_once_is_tried_again_after_a_long_time():
    costs = StepCosts()
    for _ in range(2):
        costs.measured(1, 1.0)
        costs.measured(8, 50.0)
    assert costs.seconds(8) == 50.0
    for _ in range(FORGOTTEN + 1):
        costs.measured(1, 1.0)
    assert costs.seconds(8) == 1.0
