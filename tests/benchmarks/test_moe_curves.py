"""When a validation curve reaches a loss, and what the steps until then cost."""

from __future__ import annotations

import pytest

from quiltwork.core.errors import BadInputError
from work.moe_curves import Curve, Reached, StepCost, mean_curve, reached, spent

FALLING = Curve((0, 100, 200, 300), (3.0, 2.0, 1.0, 1.5))


def test_a_loss_between_two_points_is_reached_on_the_line_between_them() -> None:
    assert reached(FALLING, 1.25) == Reached(175.0)
    assert reached(FALLING, 2.0) == Reached(100.0)


def test_the_first_crossing_counts_and_not_the_last() -> None:
    bumpy = Curve((0, 10, 20, 30), (2.0, 1.0, 2.0, 0.5))
    assert reached(bumpy, 1.5) == Reached(5.0)


def test_a_loss_that_is_never_reached_says_so_with_the_steps_that_were_done() -> None:
    assert reached(FALLING, 0.99) == Reached(300, censored=True)


def test_a_curve_reaches_its_own_minimum_where_it_is() -> None:
    step, loss = FALLING.least()
    assert (step, loss) == (200, 1.0)
    assert reached(FALLING, loss) == Reached(200.0)


def test_the_minimum_can_be_asked_of_the_first_steps_alone() -> None:
    assert FALLING.least(until=150) == (100, 2.0)
    with pytest.raises(BadInputError, match="nothing up to step 5"):
        Curve((10,), (1.0,)).least(until=5)


def test_the_mean_over_seeds_is_of_the_steps_that_all_have() -> None:
    longer = Curve((0, 100, 200, 300, 400), (5.0, 4.0, 3.0, 2.5, 1.0))
    assert mean_curve([FALLING, longer]) == Curve((0, 100, 200, 300), (4.0, 3.0, 2.0, 2.0))


@pytest.mark.parametrize(("steps", "losses"), [((), ()), ((0, 1), (1.0,)), ((0, 0), (1.0, 1.0)), ((1, 0), (1.0, 1.0))])
def test_a_curve_that_is_none_is_refused(steps: tuple[int, ...], losses: tuple[float, ...]) -> None:
    with pytest.raises(BadInputError, match="curve"):
        Curve(steps, losses)


def test_each_step_costs_by_its_own_experts_per_token() -> None:
    cost = StepCost(one=0.6, two=1.0)
    assert cost(1.5) == pytest.approx(0.8)
    assert spent(2, [2.0, 1.0, 1.0], cost) == pytest.approx(1.6)
    assert spent(2.5, [2.0, 1.0, 1.5], cost) == pytest.approx(1.6 + 0.4)
    assert spent(4, [2.0, 1.0], cost) == pytest.approx(1.0 + 3 * 0.6)


def test_always_two_experts_cost_what_two_cost() -> None:
    assert spent(123.5, [2.0] * 200, StepCost(0.6, 1.0)) == pytest.approx(123.5)
