"""What a step of each arm costs, from steps that were measured beside each other."""

from __future__ import annotations

import pytest

from work.moe_arms import ADAPTIVE, DENSE, TOP1, TOP2
from work.moe_step_cost import Measured, step_costs

FOUND = {
    TOP1: Measured((0.3, 0.31, 0.29), (1.0, 1.0, 1.0)),
    TOP2: Measured((0.5, 0.5, 0.5), (2.0, 2.0, 2.0)),
    DENSE: Measured((0.4, 0.4, 0.4), (0.0, 0.0, 0.0)),
    ADAPTIVE: Measured((0.41, 0.51, 0.46), (1.5, 2.0, 1.75)),
}


def test_rows_cost_what_lies_between_top1_and_top2() -> None:
    cost = step_costs(FOUND)[TOP2]
    assert cost(1.25) == pytest.approx(0.35)


def test_a_gate_costs_what_its_steps_lie_above_the_line() -> None:
    cost = step_costs(FOUND)[ADAPTIVE]
    assert (cost(1.0), cost(2.0)) == pytest.approx((0.31, 0.51))


def test_dense_layers_cost_the_same_whatever_is_counted() -> None:
    cost = step_costs(FOUND)[DENSE]
    assert cost(0.0) == cost(2.0) == pytest.approx(0.4)
