"""Orders from simple to complex, as functions of what was recorded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quiltwork.moe.curriculum.orders import complexity_of, cosine_order, cost_order, mean_order

TOKENS = np.full((3, 2), 10)


def test_complexity_is_extra_experts_per_token_of_each_layer() -> None:
    assert complexity_of([[1, 5], [0, 20]], [[10, 10], [10, 10]]).tolist() == [[0.1, 0.5], [0.0, 2.0]]


def test_cosine_puts_the_sample_with_the_fewest_extra_experts_first_and_the_most_similar_after_it() -> None:
    extras = [[9, 1], [1, 0], [1, 9], [5, 2]]
    assert cosine_order(extras, np.full((4, 2), 10)).tolist() == [1, 0, 3, 2]


def test_the_fewest_are_counted_in_tokens_not_in_shares() -> None:
    # Sample 0 has 3 of 100 tokens, sample 1 has 2 of 4: fewer tokens, though a larger share.
    assert cosine_order([[3, 0], [0, 2], [1, 9]], [[100, 100], [4, 4], [10, 10]]).tolist() == [1, 2, 0]


@pytest.mark.parametrize("extras", [[[1, 1], [9, 9], [5, 5]], [[9, 9], [1, 1], [5, 5]]])
def test_cosine_does_not_see_magnitude_so_parallel_vectors_stay_as_they_stand(extras: list[list[int]]) -> None:
    assert cosine_order(extras, TOKENS).tolist() == [0, 1, 2]


@pytest.mark.parametrize("extras", [[[0, 0], [1, 1], [9, 9]], [[0, 0], [9, 9], [1, 1]]])
def test_cosine_to_a_zero_vector_is_defined_zero_vectors_first_and_all_others_as_they_stand(
    extras: list[list[int]],
) -> None:
    assert cosine_order(extras, TOKENS).tolist() == [0, 1, 2]
    assert cosine_order(extras[::-1], TOKENS).tolist() == [2, 0, 1]


def test_mean_tells_apart_what_cosine_does_not() -> None:
    assert mean_order([[9, 9], [0, 0], [1, 1]], TOKENS).tolist() == [1, 2, 0]


def test_mean_goes_by_shares_and_cost_by_what_is_predicted() -> None:
    assert mean_order([[4, 4], [5, 5]], [[4, 4], [50, 50]]).tolist() == [1, 0]
    assert cost_order([3.0, 1.0, 2.0]).tolist() == [1, 2, 0]


def test_no_samples_are_in_order() -> None:
    for order in (cosine_order, mean_order):
        assert order(np.zeros((0, 2)), np.zeros((0, 2))).tolist() == []


@given(arrays(np.int64, st.tuples(st.integers(1, 30), st.integers(1, 4)), elements=st.integers(0, 9)))
def test_every_order_has_each_sample_once(extras: np.ndarray) -> None:
    tokens = np.full(extras.shape, 9)
    for found in (cosine_order(extras, tokens), mean_order(extras, tokens), cost_order(extras.sum(1))):
        assert sorted(found.tolist()) == list(range(len(extras)))
