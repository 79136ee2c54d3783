"""Shares of a step that cost as much as each other."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.moe.curriculum.shares import arranged, balanced_shares, sizes_of

costs_and_parts = st.tuples(st.lists(st.floats(0, 100), max_size=40), st.integers(1, 6))


@given(costs_and_parts)
def test_every_sample_is_in_one_share_and_shares_have_the_sizes_that_workers_expect(
    case: tuple[list[float], int],
) -> None:
    costs, parts = case
    shares = balanced_shares(costs, sizes_of(len(costs), parts))
    assert [len(s) for s in shares] == [len(s) for s in np.array_split(np.arange(len(costs)), parts)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(len(costs)))


def test_what_can_be_split_evenly_is() -> None:
    costs = [8.0, 7, 6, 5, 4, 3, 2, 1]
    assert {sum(costs[i] for i in share) for share in balanced_shares(costs, [4, 4])} == {18.0}
    assert {sum(costs[i] for i in share) for share in balanced_shares(costs, [2, 2, 2, 2])} == {9.0}


def test_the_dearest_share_is_nearer_to_the_mean_than_that_of_samples_as_they_come() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        costs = rng.gamma(4.0, 1.0, 16)
        ours = max(costs[share].sum() for share in balanced_shares(costs, [4] * 4))
        plain = max(part.sum() for part in np.split(costs, 4))
        assert ours <= plain
        assert ours / costs.sum() * 4 < 1.08


def test_workers_and_their_micro_batches_have_as_much_to_do() -> None:
    ids = np.arange(100, 116)
    costs = np.random.default_rng(0).permutation(np.repeat([1.0, 2.0, 3.0, 4.0], 4))
    found = arranged(ids, costs, workers=2, micro_batch=4)
    assert sorted(found.tolist()) == ids.tolist()
    assert [costs[part - 100].sum() for part in np.split(found, 4)] == [10.0] * 4


def test_a_single_worker_takes_samples_as_they_come() -> None:
    assert arranged(np.array([5, 3, 9]), [1, 2, 3], workers=1, micro_batch=None).tolist() == [5, 3, 9]


def test_more_workers_than_samples_leave_some_without() -> None:
    assert sorted(arranged(np.array([5, 3]), [1, 2], workers=4, micro_batch=1).tolist()) == [3, 5]
