from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.core.bench import ratio_of_medians
from quiltwork.core.errors import BadInputError

samples = st.lists(st.floats(0.5, 100), min_size=1, max_size=12)


@given(samples, samples)
def test_the_interval_is_ordered_and_within_what_the_samples_allow(above, below):
    ratio, interval = ratio_of_medians(above, below)
    assert interval.low <= interval.high
    assert min(above) / max(below) <= interval.low * (1 + 1e-9)
    assert interval.high <= max(above) / min(below) * (1 + 1e-9)
    assert ratio == pytest.approx(float(np.median(above) / np.median(below)))


@given(samples, samples)
@settings(max_examples=20)
def test_the_same_samples_always_say_the_same(above, below):
    assert ratio_of_medians(above, below) == ratio_of_medians(above, below)


def test_single_values_have_an_interval_of_no_width():
    ratio, interval = ratio_of_medians([3.0], [4.0])
    assert (ratio, interval.low, interval.high) == (0.75, 0.75, 0.75)


def test_what_slowed_both_down_alike_cancels_where_samples_are_pairs():
    drift = [1.0, 2.0, 5.0, 9.0, 3.0, 7.0]
    _, paired = ratio_of_medians([2 * d for d in drift], drift)
    _, unpaired = ratio_of_medians([2 * d for d in drift], drift[:-1])
    assert (paired.low, paired.high) == pytest.approx((2.0, 2.0))
    assert unpaired.high - unpaired.low > 0.5


def test_the_interval_covers_the_true_ratio_about_as_often_as_it_says():
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(200):
        above, below = rng.lognormal(0.5, 0.2, 25), rng.lognormal(0.0, 0.2, 25)
        _, interval = ratio_of_medians(list(above), list(below))
        hits += interval.contains(float(np.exp(0.5)))
    assert 180 <= hits <= 200


def test_samples_that_are_not_clear_of_zero_are_refused():
    with pytest.raises(BadInputError, match="not clear of zero"):
        ratio_of_medians([1.0, -1.0, 1.0], [1.0, 1.0, 1.0])
