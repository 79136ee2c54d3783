"""The search for thresholds, against a made-up model whose losses are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.moe.checkpoints.calibration import (
    ALWAYS,
    NEVER,
    SEARCHES,
    Measured,
    Point,
    best,
    frontier,
    meter,
    threshold_at,
)

RNG = np.random.default_rng(0)
GAPS = [np.sort(RNG.random(400)) for _ in range(4)]
PRICES = (0.001, 0.3, 0.02, 0.1)
"""What the loss gains by each layer's second experts; by those of small gaps the most."""


def made_up(thresholds):
    """A model with top-2 layers: a token's second expert is worth the more, the smaller the gap."""
    losses, experts = np.full(10, 2.0) + np.linspace(0, 0.1, 10), []
    for gaps, price, threshold in zip(GAPS, PRICES, thresholds, strict=True):
        dropped = gaps > threshold
        losses = losses + price * ((1 - gaps) * dropped).mean()
        experts.append(2.0 - float(dropped.mean()))
    return Measured(losses, tuple(experts))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0, 1))
def test_a_threshold_keeps_at_least_the_share_asked_for_and_no_lower_one_does(values, share):
    gaps = np.sort(np.array(values))
    threshold = threshold_at(gaps, share)
    kept = (gaps <= threshold).mean()
    assert kept >= share - 1e-6
    lower = gaps[gaps < threshold]
    if threshold not in (NEVER, ALWAYS) and len(lower):
        assert (gaps <= lower[-1]).mean() < share


def test_all_and_none_of_the_further_experts_are_exact():
    assert threshold_at(GAPS[0], 0.0) == NEVER
    assert threshold_at(GAPS[0], 1.0) == ALWAYS
    assert threshold_at(np.zeros(3), 0.1) == 0.0


@pytest.mark.parametrize("method", SEARCHES)
@pytest.mark.parametrize("most_rise", [0.0, 0.002, 0.01, 0.05, 1.0])
def test_what_is_chosen_is_within_the_rise_and_was_measured(method, most_rise):
    points = SEARCHES[method](meter(made_up, 4), GAPS, most_rise)
    chosen = best(points, most_rise)
    again = made_up(chosen.thresholds)
    assert again.experts == chosen.experts
    whole = made_up((ALWAYS,) * 4).losses.mean()
    assert chosen.rise == pytest.approx(again.losses.mean() / whole - 1, abs=1e-9)
    assert chosen.rise <= chosen.highest <= most_rise
    assert chosen.mean == 1.0 or most_rise < 1.0


@pytest.mark.parametrize("method", SEARCHES)
def test_more_rise_takes_fewer_experts_and_the_dear_layer_keeps_its_own(method):
    bounds = (0.0, 0.01, 0.03, 0.1)
    chosen = [best(SEARCHES[method](meter(made_up, 4), GAPS, bound), bound) for bound in bounds]
    means = [point.mean for point in chosen]
    assert means == sorted(means, reverse=True)
    assert means[0] > means[1] > means[-1]
    assert chosen[2].experts[1] == max(chosen[2].experts)


def test_layers_that_cost_differently_are_told_apart_by_the_greedy_search():
    found = {method: best(SEARCHES[method](meter(made_up, 4), GAPS, 0.02), 0.02) for method in SEARCHES}
    assert found["greedy"].experts[0] == 1.0
    assert found["greedy"].experts[1] > 1.5


def test_a_loss_that_varies_from_window_to_window_asks_for_a_margin():
    whole = Measured(np.full(16, 2.0), (2.0,))
    steady = Measured(np.full(16, 2.01), (1.5,))
    varied = Measured(2.01 + 0.1 * np.tile([-1.0, 1.0], 8), (1.5,))

    def rises(measured):
        return meter(lambda thresholds: whole if thresholds == (ALWAYS,) else measured, 1)((0.5,))

    assert rises(steady).highest == pytest.approx(rises(steady).rise) == pytest.approx(0.005)
    assert rises(varied).rise == pytest.approx(0.005)
    assert rises(varied).highest == pytest.approx(0.005 + 1.645 * 0.1 * (16 / 15) ** 0.5 / 4 / 2)


def test_the_same_thresholds_are_measured_once():
    asked = []
    measure = meter(lambda thresholds: asked.append(thresholds) or made_up(thresholds), 4)
    SEARCHES["common"](measure, GAPS, 0.01)
    assert len(asked) == len(set(asked))


def test_the_frontier_has_what_no_other_beats_in_both():
    def point(mean, loss):
        return Point((mean,), (mean,), loss, 0.0, 0.0)

    points = [point(2.0, 1.0), point(1.5, 1.2), point(1.5, 1.1), point(1.7, 1.3), point(1.0, 2.0), point(1.0, 2.0)]
    assert [(p.mean, p.loss) for p in frontier(points)] == [(1.0, 2.0), (1.5, 1.1), (2.0, 1.0)]
