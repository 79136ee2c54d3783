"""Time to the top-2 arm's loss, over seeds and tasks."""

from __future__ import annotations

import pytest

from quiltwork.core.errors import BadInputError
from work.moe_arms import ADAPTIVE, TOP1, TOP2
from work.moe_curves import Curve, StepCost
from work.moe_found import Found
from work.moe_times import TimeToLoss, best_task, mean_over_tasks, of_mean_curves, times

COST = StepCost(one=0.3, two=0.5)
COSTS = {TOP2: COST, ADAPTIVE: COST, TOP1: COST}


def found(losses: tuple[float, ...], experts: float) -> Found:
    steps = tuple(10 * n for n in range(len(losses)))
    return Found(
        Curve(steps, losses),
        (experts,) * steps[-1],
        ((experts,),) * steps[-1],
        0.6,
        {},
        tuple(map(float, steps)),
        1.0,
        1e-3,
    )


def test_time_is_steps_to_the_loss_times_what_they_cost_and_not_the_flops_of_a_step() -> None:
    runs = {TOP2: {0: found((3.0, 2.0, 1.0), 2)}, TOP1: {0: found((3.0, 2.5, 1.5, 0.5), 1)}}
    one = times(TOP1, runs, COSTS)[0]
    assert (one.ours_s, one.top2_s) == pytest.approx((25 * 0.3, 20 * 0.5))
    assert one.steps == pytest.approx(1.25)
    assert not one.censored


def test_every_arm_is_held_against_the_same_loss_whatever_it_comes_to_itself() -> None:
    alike = (3.0, 2.0, 1.0)
    runs = {
        TOP2: {0: found(alike, 2)},
        ADAPTIVE: {0: found((*alike, 0.1, 0.01), 1)},  # its own least loss is far below
        TOP1: {0: found((*alike, 1.5, 2.5), 1)},  # and this one's rises again
    }
    each = {arm: times(arm, runs, COSTS)[0] for arm in runs}
    assert {arm: one.steps for arm, one in each.items()} == dict.fromkeys(runs, 1.0)
    assert {arm: one.top2_s for arm, one in each.items()} == dict.fromkeys(runs, 20 * 0.5)
    assert each[TOP2].ratio == 1
    assert each[ADAPTIVE].ratio == each[TOP1].ratio == pytest.approx(0.3 / 0.5)


def test_how_long_an_arm_was_trained_is_no_part_of_its_time() -> None:
    top2 = {0: found((3.0, 2.0, 1.0), 2)}
    short, long = found((3.0, 1.5, 0.9), 1), found((3.0, 1.5, 0.9, 0.8, 0.7, 0.6), 1)
    short_s, long_s = (times(ADAPTIVE, {TOP2: top2, ADAPTIVE: {0: one}}, COSTS)[0].ours_s for one in (short, long))
    assert short_s == long_s


def test_each_seed_is_held_against_top2_with_that_seed() -> None:
    runs = {
        TOP2: {0: found((3.0, 1.0), 2), 1: found((3.0, 2.0), 2)},
        ADAPTIVE: {0: found((3.0, 1.0), 1), 1: found((3.0, 2.0), 1), 2: found((3.0, 0.0), 1)},
    }
    assert {seed: one.ratio for seed, one in times(ADAPTIVE, runs, COSTS).items()} == pytest.approx({0: 0.6, 1: 0.6})


def test_an_arm_that_never_gets_there_has_the_time_of_all_its_steps_and_says_so() -> None:
    runs = {TOP2: {0: found((3.0, 1.0), 2)}, TOP1: {0: found((3.0, 2.0, 2.0, 2.0), 1)}}
    one = times(TOP1, runs, COSTS)[0]
    assert one.censored
    assert one.ratio == pytest.approx(30 * 0.3 / (10 * 0.5))


def test_mean_curves_hold_seeds_together() -> None:
    runs = {
        TOP2: {seed: found((3.0, 2.0, 1.0 + seed / 4), 2) for seed in range(3)},
        ADAPTIVE: {seed: found((3.0, 2.0, 1.0 + seed / 4), 1) for seed in range(3)},
    }
    estimate, never = of_mean_curves(ADAPTIVE, runs, COSTS)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.6, 0.6, 0.6))
    assert never == 0


def test_a_top2_run_that_never_learnt_is_no_baseline() -> None:
    flat = {0: found((3.0, 3.0, 3.5), 2)}
    with pytest.raises(BadInputError, match="top2"):
        times(ADAPTIVE, {TOP2: flat, ADAPTIVE: flat}, COSTS)


def ratio(value: float, censored: bool = False) -> TimeToLoss:
    return TimeToLoss(value, 1.0, value, value, 1.0, censored)


def test_the_mean_over_tasks_is_taken_seed_by_seed() -> None:
    assert mean_over_tasks([{0: ratio(0.5), 1: ratio(0.7)}, {0: ratio(0.9), 1: ratio(0.9)}]) == pytest.approx(
        [0.7, 0.8]
    )


def test_a_task_whose_loss_was_seldom_reached_is_not_the_best_one() -> None:
    never = {seed: ratio(0.5, censored=True) for seed in range(3)}
    assert best_task({"lm": {0: ratio(0.9)}, "sst2": {0: ratio(0.8)}, "multi30k": never}) == "sst2"
