"""Budgets in FLOPs and bytes come to a mean number of experts, or say what range they could have."""

import pytest

from quiltwork.core.errors import BadInputError
from quiltwork.moe.control.budget import exchange_bytes, experts_for


def test_what_a_budget_buys_costs_the_budget() -> None:
    each = [10.0, 30.0, 20.0]
    experts = experts_for(190.0, each, besides=100.0, most=2, where="budget_flops", unit="FLOPs")
    assert experts == pytest.approx(1.5)
    assert 100.0 + sum(experts * cost for cost in each) == pytest.approx(190.0)


@pytest.mark.parametrize("budget", [159.0, 221.0, -1.0, float("nan"), float("inf")])
def test_a_budget_that_no_gate_can_meet_names_the_range(budget: float) -> None:
    with pytest.raises(BadInputError, match=r"budget_flops: .*from 160 to 220"):
        experts_for(budget, [10.0, 30.0, 20.0], besides=100.0, most=2, where="budget_flops", unit="FLOPs")


def test_an_assignment_sends_a_row_there_and_back() -> None:
    assert exchange_bytes(width=128, number_bytes=4) == 1024


def test_assignments_that_cost_nothing_are_refused() -> None:
    with pytest.raises(BadInputError, match="budget_bytes: cost"):
        experts_for(10.0, [0.0], besides=0.0, most=2, where="budget_bytes", unit="bytes")
