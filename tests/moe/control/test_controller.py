"""The controller holds a mean number of experts, through what a model's gaps do while it learns."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from quiltwork.core.errors import BadInputError
from quiltwork.moe.control.controller import (
    METHODS,
    Controller,
    ControlState,
    begin,
    decide,
    layer_thresholds,
    mean_experts,
    resumed,
)  # fmt: skip
from quiltwork.moe.control.levels import ASSIGNMENTS, BINS, COLUMNS, LEVELS, REACH, TOKENS, Numbers

LAYERS, N = 3, 400
World = Callable[[int], Numbers]
"""The mean log-odds of each layer's gaps at a step."""


def sharpening(step: int) -> Numbers:
    """A router that begins alike for all experts and gets sure."""
    return np.linspace(-2.5, -0.5, LAYERS) - 5 * np.exp(-step / 60)


def shifted(step: int) -> Numbers:
    """The text changes at step 200: its gaps are three times as wide."""
    return sharpening(step) + (1.1 if step >= 200 else 0.0)


def faster(step: int) -> Numbers:
    """From step 200 on the rate is higher and the router moves on."""
    return sharpening(step) + (2.0 * (1 - np.exp(-(step - 200) / 20)) if step >= 200 else 0.0)


def tally(levels: Numbers, thresholds: tuple[float, ...]) -> Numbers:
    found = np.zeros((len(levels), COLUMNS))
    found[:, TOKENS] = levels.shape[1]
    found[:, ASSIGNMENTS] = levels.shape[1] + (levels <= np.array(thresholds)[:, None]).sum(1)
    places = ((np.log(levels / (1 - levels)) + REACH) * BINS / (2 * REACH)).astype(int).clip(0, BINS - 1)
    for layer, row in enumerate(places):
        found[layer, LEVELS:] = np.bincount(row, minlength=BINS)
    return found


def lived(controller: Controller, world: World, steps: int, seed: int = 0) -> tuple[Numbers, ControlState]:
    """Experts per token (steps, L), and the state at the end."""
    rng, state, reached = np.random.default_rng(seed), begin(controller, 0.1), []
    for step in range(steps):
        z = world(step)[:, None] + 1.6 * rng.standard_normal((LAYERS, N))
        counted = tally(1 / (1 + np.exp(-z)), layer_thresholds(controller, state))
        reached.append(mean_experts(counted))
        state = decide(controller, state, counted)
    return np.array(reached), state


@pytest.mark.parametrize("target", [1.1, 1.25, 1.5])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("world", [sharpening, shifted, faster])
def test_the_target_is_held_through_learning_and_a_shift(method: str, target: float, world: World) -> None:
    reached, _ = lived(Controller(LAYERS, target, method=method), world, 260)
    assert reached[:200].mean() == pytest.approx(target, rel=0.03)
    assert reached[150:200].mean() == pytest.approx(target, rel=0.03)
    assert reached[205:].mean() == pytest.approx(target, rel=0.03)


def test_a_fixed_threshold_drifts_where_the_controller_does_not() -> None:
    still = replace(Controller(LAYERS, 1.25, method="pi"), proportional=0.0, integral=0.0)
    fixed, _ = lived(still, shifted, 260)
    assert abs(fixed[205:].mean() / fixed[150:200].mean() - 1) > 0.03


def test_each_layer_may_have_a_target_of_its_own() -> None:
    targets = (1.1, 1.3, 1.6)
    reached, state = lived(Controller(LAYERS, targets), sharpening, 200)
    assert reached[100:].mean(0) == pytest.approx(targets, rel=0.03)
    assert len(set(state.thresholds.tolist())) == LAYERS


def test_one_target_shares_one_threshold_and_leaves_layers_to_differ() -> None:
    controller = Controller(LAYERS, 1.3)
    reached, state = lived(controller, sharpening, 200)
    assert len(set(layer_thresholds(controller, state))) == 1
    assert np.ptp(reached[100:].mean(0)) > 0.1


def test_layers_count_by_what_their_assignments_cost() -> None:
    costs = (1.0, 1.0, 6.0)
    reached, _ = lived(Controller(LAYERS, 1.3, costs=costs), sharpening, 200)
    assert np.average(reached[100:].mean(0), weights=costs) == pytest.approx(1.3, rel=0.01)


def test_ends_of_the_range_take_one_and_all() -> None:
    least, _ = lived(Controller(LAYERS, 1.0, repay=0), sharpening, 10)
    most, _ = lived(Controller(LAYERS, 2.0, repay=0), sharpening, 10)
    assert (least[1:] == 1).all()
    assert (most[1:] == 2).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_controller_decides_the_same_to_the_bit(method: str) -> None:
    controller = Controller(LAYERS, 1.4, method=method)
    _, state = lived(controller, sharpening, 20)
    again = resumed(controller, state.arrays())
    counted = tally(np.random.default_rng(5).random((LAYERS, N)), layer_thresholds(controller, state))
    assert np.array_equal(decide(controller, state, counted).thresholds, decide(controller, again, counted).thresholds)


def test_only_proportions_of_a_tally_count_so_that_a_mean_over_workers_is_as_good_as_a_sum() -> None:
    controller = Controller(LAYERS, 1.4)
    counted = tally(np.random.default_rng(5).random((LAYERS, N)), (0.1,) * LAYERS)
    summed, mean = (decide(controller, begin(controller, 0.1), counted * of) for of in (1.0, 1 / 64))
    assert summed.thresholds == pytest.approx(mean.thresholds, rel=1e-12)


def test_alike_experts_do_not_make_a_debt_without_end() -> None:
    controller = Controller(LAYERS, 1.2)
    state = begin(controller, 0.1)
    for _ in range(200):
        counted = np.zeros((LAYERS, COLUMNS))
        counted[:, [TOKENS, ASSIGNMENTS, LEVELS]] = (100, 200, 100)  # every gap is 0: any threshold takes two
        state = decide(controller, state, counted)
    assert np.abs(state.owed).max() <= 0.1 * controller.repay


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"experts": 0.9}, "target_experts: 0.9 is not from 1 to 2"),
        ({"experts": 2.1}, "target_experts: 2.1"),
        ({"experts": float("nan")}, "target_experts: nan"),
        ({"experts": (1.1, 1.2)}, "target_experts: 2 numbers for 3 layers"),
        ({"method": "pid"}, "method: 'pid' is not a method"),
        ({"costs": (1.0, -1.0, 1.0)}, "costs: an assignment costs more than nothing"),
        ({"memory": 1.0}, "controller: memory 1.0"),
        ({"most": 1}, "controller: 3 layers with at most 1"),
    ],
)
def test_what_cannot_be_wanted_is_named(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        Controller(**{"layers": LAYERS, "experts": 1.2, **wrong})


@pytest.mark.parametrize("broken", ["thresholds", "recent", "owed", "error"])
def test_a_broken_state_is_named(broken: str) -> None:
    controller = Controller(LAYERS, 1.2)
    whole = begin(controller, 0.1).arrays()
    for wrong in (None, np.zeros(7), whole[f"control/{broken}"] * np.nan):
        arrays = dict(whole)
        if wrong is None:
            del arrays[f"control/{broken}"]
        else:
            arrays[f"control/{broken}"] = wrong
        with pytest.raises(BadInputError, match=f"state: control/{broken}"):
            resumed(controller, arrays)


def test_a_tally_of_nothing_or_of_another_model_is_refused() -> None:
    controller = Controller(LAYERS, 1.2)
    with pytest.raises(BadInputError, match="no token was counted"):
        decide(controller, begin(controller, 0.1), np.zeros((LAYERS, COLUMNS)))
    with pytest.raises(BadInputError, match="tally: is"):
        decide(controller, begin(controller, 0.1), np.ones((LAYERS + 1, COLUMNS)))
