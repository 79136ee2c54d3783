"""An order that goes by what the epoch before recorded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quiltwork.core.errors import BadInputError
from quiltwork.layers.order import LearningOrder
from quiltwork.moe.curriculum.costs import CostModel
from quiltwork.moe.curriculum.learned import LearnedOrder, Plan

SAMPLES, GROUP = 24, 4
LENGTHS = np.repeat([100, 200], SAMPLES // 2)


def plan(**changes: object) -> Plan:
    tokens = np.repeat(LENGTHS[:, None], 2, 1)
    made = Plan(LENGTHS, tokens, CostModel(LENGTHS * 1.0, 1.0), buckets=1, group=GROUP, frozen=False, seed=5)
    return replace(made, **changes)  # type: ignore[arg-type]


def extras_of(ids: np.ndarray) -> np.ndarray:
    """What a made-up routing of these samples is: shares of 0 to 1, unlike ids, in two layers."""
    share = (ids * 7 % SAMPLES) / SAMPLES
    return np.stack([LENGTHS[ids] * share, LENGTHS[ids] * share], 1).astype(np.float32)


def trained(order: LearnedOrder, taken: int, upto: int, size: int = GROUP) -> list[np.ndarray]:
    steps = []
    while taken < upto:
        ids = order.ids(taken, size)
        taken += size
        steps.append(ids)
        order.record(ids, extras_of(ids), taken)
    return steps


def test_it_is_an_order_that_learns() -> None:
    assert isinstance(LearnedOrder("mean", plan()), LearningOrder)


def test_the_first_epoch_is_the_random_order_whatever_the_kind() -> None:
    first = [
        LearnedOrder(kind, plan(buckets=2)).ids(0, SAMPLES).tolist() for kind in ("random", "cosine", "mean", "cost")
    ]
    assert all(one == first[0] for one in first)
    assert sorted(first[0]) == list(range(SAMPLES))
    assert LearnedOrder("mean", replace(plan(), seed=6)).ids(0, SAMPLES).tolist() != first[0]


def test_by_length_each_epoch_has_steps_of_alike_length_whatever_was_recorded() -> None:
    lengths = np.random.default_rng(1).permutation(SAMPLES) + 1
    order = LearnedOrder("length", plan(lengths=lengths))
    steps = trained(order, 0, 3 * SAMPLES)
    wanted = [set(range(at + 1, at + 1 + GROUP)) for at in range(0, SAMPLES, GROUP)]
    per_epoch = SAMPLES // GROUP
    for epoch in range(3):
        found = [set(lengths[ids].tolist()) for ids in steps[epoch * per_epoch : (epoch + 1) * per_epoch]]
        assert sorted(found, key=min) == wanted


def test_from_the_second_epoch_on_steps_have_samples_of_similar_complexity() -> None:
    order = LearnedOrder("mean", plan())
    steps = trained(order, 0, 3 * SAMPLES)
    places = np.arange(SAMPLES) * 7 % SAMPLES
    per_epoch = SAMPLES // GROUP
    for epoch in (1, 2):
        some = steps[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(np.concatenate(some).tolist()) == list(range(SAMPLES))
        assert all(np.ptp(places[step]) == GROUP - 1 for step in some)
        assert [places[step].min() for step in some] != sorted(places[step].min() for step in some)


def test_frozen_it_goes_from_simple_to_complex() -> None:
    order = LearnedOrder("mean", plan(frozen=True))
    steps = trained(order, 0, 2 * SAMPLES)[SAMPLES // GROUP :]
    assert (np.diff(np.concatenate(steps) * 7 % SAMPLES) == 1).all()


def test_no_step_mixes_buckets_and_both_kinds_have_the_same_buckets() -> None:
    for kind in ("random", "cosine", "mean", "cost"):
        steps = trained(LearnedOrder(kind, plan(buckets=2)), 0, 2 * SAMPLES)
        assert all(len(set(LENGTHS[step])) == 1 for step in steps)


def test_it_goes_by_recorded_routing_not_by_length() -> None:
    order = LearnedOrder("mean", plan(frozen=True))
    ids = order.ids(0, SAMPLES)
    share = np.where(LENGTHS == 100, 0.9, 0.1)  # the short ones are complex
    order.record(ids, (LENGTHS * share)[ids, None].repeat(2, 1).astype(np.float32), SAMPLES)
    assert set(LENGTHS[order.ids(SAMPLES, SAMPLES // 2)]) == {200}


def test_each_epoch_goes_by_the_one_before_and_stays_as_it_is_while_it_is_recorded() -> None:
    order = LearnedOrder("mean", plan(frozen=True))
    trained(order, 0, SAMPLES)
    before = order.ids(SAMPLES, SAMPLES)
    assert order.ids(SAMPLES, SAMPLES).tolist() == before.tolist()
    step = order.ids(SAMPLES, GROUP)
    order.record(step, np.full((GROUP, 2), 250, np.float32), SAMPLES + GROUP)
    assert order.ids(SAMPLES + GROUP, SAMPLES - GROUP).tolist() == before[GROUP:].tolist()
    trained(order, SAMPLES + GROUP, 2 * SAMPLES)
    assert order.records[step[0]].tolist() == [250, 250]
    assert set(order.ids(2 * SAMPLES, SAMPLES)[-GROUP:].tolist()) == set(step.tolist())


@pytest.mark.parametrize("size", [4, 5, 7, 60])
def test_steps_that_reach_into_the_next_epoch_leave_no_sample_out(size: int) -> None:
    order = LearnedOrder("cost", plan(buckets=2, group=size))
    taken = np.concatenate(trained(order, 0, 6 * SAMPLES, size))
    for epoch in range(6):
        assert sorted(taken[epoch * SAMPLES : (epoch + 1) * SAMPLES].tolist()) == list(range(SAMPLES))


@pytest.mark.parametrize("stop", [SAMPLES - GROUP, SAMPLES, 40, 2 * SAMPLES + 5])
def test_it_goes_on_from_its_state_as_if_it_had_not_stopped(stop: int) -> None:
    whole, first, second = (LearnedOrder("mean", plan(buckets=2, group=5)) for _ in range(3))
    expected = np.concatenate(trained(whole, 0, 90, 5))
    stop = -(-stop // 5) * 5
    trained(first, 0, stop, 5)
    second.load(first.state())
    assert np.concatenate(trained(second, stop, 90, 5)).tolist() == expected[stop:].tolist()


def test_records_are_two_bytes_a_layer_and_those_beyond_stay_at_the_most() -> None:
    order = LearnedOrder("mean", plan())
    order.record(np.array([3]), np.array([[70_000.0, 1.6]], np.float32), 1)
    assert order.records.dtype == np.uint16
    assert order.records[3].tolist() == [65_535, 2]


def test_a_state_of_other_samples_is_refused_by_name() -> None:
    order = LearnedOrder("mean", plan())
    state = dict(order.state())
    with pytest.raises(BadInputError, match="order/latest"):
        order.load(state | {"latest": state["latest"][1:]})
    with pytest.raises(BadInputError, match="order/epoch"):
        order.load({name: array for name, array in state.items() if name != "epoch"})
    with pytest.raises(BadInputError, match="order/epoch"):
        order.load(state | {"epoch": np.array([-1])})
