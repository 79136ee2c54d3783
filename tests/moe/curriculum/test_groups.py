"""Buckets of alike length, and groups that are steps."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.moe.curriculum.groups import in_groups, length_buckets


def test_buckets_are_as_large_as_each_other_and_no_sample_is_longer_than_one_of_the_next() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 101)
    buckets = length_buckets(lengths, 4)
    assert [len(bucket) for bucket in buckets] == [26, 25, 25, 25]
    assert all(lengths[a].max() <= lengths[b].min() for a, b in itertools.pairwise(buckets))


def test_more_buckets_than_samples_are_one_each() -> None:
    assert [bucket.tolist() for bucket in length_buckets(np.array([3, 1]), 9)] == [[1], [0]]


@given(st.integers(0, 60), st.integers(0, 100), st.integers(1, 9), st.integers(0, 5))
def test_every_whole_step_has_consecutive_samples_and_every_sample_comes_once(
    count: int, start: int, size: int, seed: int
) -> None:
    found = in_groups(np.arange(count), start, size, np.random.default_rng(seed))
    assert sorted(found.tolist()) == list(range(count))
    lead = min(-start % size, count)
    whole = (count - lead) // size
    for step in np.split(found[lead : lead + whole * size], whole) if whole else []:
        assert np.diff(step).tolist() == [1] * (size - 1)


def test_groups_come_in_another_order_than_from_simple_to_complex_unless_they_are_frozen() -> None:
    samples = np.arange(64)
    drawn = in_groups(samples, 0, 4, np.random.default_rng(1))
    assert drawn.tolist() != samples.tolist()
    assert abs(np.corrcoef(drawn, samples)[0, 1]) < 0.5
    assert in_groups(samples, 0, 4, None).tolist() == samples.tolist()
