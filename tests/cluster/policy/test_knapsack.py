import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.cluster.policy.knapsack import allocate, allocate_exactly, menu_of
from quiltwork.core.errors import BadInputError


def linear(remaining, w_min, w_max):
    return menu_of([remaining / w_min - remaining / w for w in range(w_min, w_max + 1)])


THREE = [linear(600, 2, 6), linear(300, 1, 3), linear(4000, 4, 8)]
GPUS = [1, 2, 1]


def test_values_are_seconds_saved():
    assert THREE[0].values.tolist() == pytest.approx([0, 100, 150, 180, 200])
    assert THREE[1].values.tolist() == pytest.approx([0, 150, 200])
    assert THREE[2].values.tolist() == pytest.approx([0, 200, 333.333, 428.571, 500], abs=1e-3)


@pytest.mark.parametrize("solve", [allocate, allocate_exactly])
@pytest.mark.parametrize(
    ("capacity", "workers", "value"),
    [(3, [1, 0, 2], 433.333), (4, [1, 0, 3], 528.571), (5, [1, 0, 4], 600.0), (6, [1, 1, 3], 678.571)],
)
def test_the_worked_example(solve, capacity, workers, value):
    found = solve(THREE, GPUS, capacity)
    assert found.workers == workers
    assert found.value == pytest.approx(value, abs=1e-3)


curve = st.lists(st.floats(0, 100), min_size=0, max_size=5).map(lambda gains: menu_of([0.0, *gains]))
case = st.lists(st.tuples(curve, st.sampled_from([1, 2, 3])), min_size=1, max_size=4)


def brute_force(menus, gpus, capacity):
    best = 0.0

    def descend(i, left, value):
        nonlocal best
        if i == len(menus):
            best = max(best, value)
            return
        for k, worth in enumerate(menus[i].values.tolist()):
            if k * gpus[i] <= left:
                descend(i + 1, left - k * gpus[i], value + worth)

    descend(0, capacity, 0.0)
    return best


@settings(max_examples=500, deadline=None)
@given(case, st.integers(0, 12))
def test_dynamic_programming_is_optimal_and_the_bound_holds(jobs, capacity):
    menus, gpus = [m for m, _ in jobs], [g for _, g in jobs]
    best = brute_force(menus, gpus, capacity)
    exact, greedy = allocate_exactly(menus, gpus, capacity), allocate(menus, gpus, capacity)
    assert exact.value == pytest.approx(best)
    for found in (exact, greedy):
        assert sum(k * g for k, g in zip(found.workers, gpus, strict=True)) <= capacity
        assert found.value == pytest.approx(sum(m.values[k] for m, k in zip(menus, found.workers, strict=True)))
    assert greedy.value <= best + 1e-9
    assert greedy.bound >= best - 1e-9
    one_job = max(max(m.values[: capacity // g + 1], default=0.0) for m, g in jobs)
    assert exact.value >= one_job - 1e-9


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(1, 1e6), st.integers(1, 8)), min_size=1, max_size=8), st.integers(0, 40))
def test_marginal_gain_is_optimal_for_workers_of_one_gpu_and_diminishing_returns(jobs, capacity):
    menus = [linear(remaining, w, 2 * w) for remaining, w in jobs]
    ones = [1] * len(jobs)
    assert allocate(menus, ones, capacity).value == pytest.approx(allocate_exactly(menus, ones, capacity).value)


@settings(max_examples=300, deadline=None)
@given(case, st.integers(0, 12))
def test_nothing_is_left_that_fits_and_would_help(jobs, capacity):
    menus, gpus = [m for m, _ in jobs], [g for _, g in jobs]
    found = allocate(menus, gpus, capacity)
    left = capacity - sum(k * g for k, g in zip(found.workers, gpus, strict=True))
    for menu, g, k in zip(menus, gpus, found.workers, strict=True):
        ahead = menu.values[k + 1 : k + 1 + left // g]
        # A gain whose share per worker is below what a float can hold is none.
        assert max(ahead, default=0.0) <= menu.values[k] + 1e-300


def test_what_the_last_segment_leaves_goes_to_the_best_gain_per_gpu_that_fits():
    # Four GPUs of five go to the first; of the others one wants two, the better of the rest one.
    menus = [menu_of([0, 0, 0, 0, 400]), menu_of([0, 0, 90]), menu_of([0, 30]), menu_of([0, 40])]
    assert allocate(menus, [1, 1, 1, 1], 5).workers == [4, 0, 0, 1]
    assert allocate(menus, [1, 1, 1, 1], 7).workers == [4, 2, 0, 1]


def test_without_bound_everybody_gets_all_that_helps():
    assert allocate(THREE, GPUS, 1000).workers == [4, 2, 4]
    assert allocate(THREE, GPUS, 1000).gap == 0


def test_a_dip_of_the_curve_is_stepped_over():
    speed = np.array([3.9, 3.2, 3.6, 4.2, 4.8])
    bert = menu_of(1 / speed[0] - 1 / speed)
    assert bert.steps.tolist() == [4]
    assert allocate([bert], [1], 1).workers == [0]
    assert allocate([bert], [1], 4).workers == [4]


def test_who_is_nearly_done_does_not_win_from_who_has_just_begun():
    menus = [linear(1.0, 2, 4)] * 2
    assert allocate(menus, [1, 1], 2, scale=[5.0, 95.0]).workers == [0, 2]


def test_a_worker_stays_where_it_is_unless_it_is_clearly_better_elsewhere():
    menus = [linear(1.0, 2, 3)] * 2
    assert allocate(menus, [1, 1], 1, scale=[100, 105], held=[1, 0], stickiness=0.1).workers == [1, 0]
    assert allocate(menus, [1, 1], 1, scale=[100, 120], held=[1, 0], stickiness=0.1).workers == [0, 1]


def test_large_instances_come_with_a_certificate():
    chance = np.random.default_rng(0)
    menus, gpus = [], []
    for _ in range(500):
        w = int(chance.integers(1, 17))
        speeds = np.arange(w, 2 * w + 1) ** 0.9 * chance.uniform(0.8, 1.0, w + 1)
        menus.append(menu_of(chance.lognormal(8, 2) * (1 / speeds[0] - 1 / speeds)))
        gpus.append(int(chance.choice([1, 2, 4, 8])))
    found = allocate(menus, gpus, 2000)
    assert found.gap <= 1e-4
    assert found.value == pytest.approx(allocate_exactly(menus, gpus, 2000).value, rel=1e-4)


def test_a_menu_begins_with_nothing_for_nothing():
    for values in ([], [1.0, 2.0], [0.0, float("nan")]):
        with pytest.raises(BadInputError, match="begin with 0"):
            menu_of(values)


def test_nobody_to_give_to():
    assert allocate([], [], 5).workers == []
    assert allocate([menu_of([0.0])], [1], 5).workers == [0]
