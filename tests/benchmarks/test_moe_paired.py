"""Paired differences and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from quiltwork.core.errors import BadInputError
from work.moe_paired import block_means, mean_difference, resampled


def test_what_pairs_have_in_common_does_not_widen_the_interval() -> None:
    common = np.random.default_rng(0).normal(0, 100, 40)
    near = mean_difference((common + 1).tolist(), common.tolist())
    assert near.value == pytest.approx(1)
    assert near.high - near.low < 1e-9
    assert not near.crosses_zero


def test_noise_around_nothing_crosses_zero() -> None:
    noise = np.random.default_rng(1).normal(0, 1, (2, 30))
    assert mean_difference(noise[0].tolist(), noise[1].tolist()).crosses_zero


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        drawn = rng.normal(3, 1, 30)
        found = resampled(30, lambda chosen, drawn=drawn: float(drawn[chosen].mean()), resamples=300)
        covered += found.low <= 3 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_same_pairs_always_say_the_same() -> None:
    assert mean_difference([1, 2, 4], [0, 3, 1]) == mean_difference([1, 2, 4], [0, 3, 1])


def test_what_is_not_paired_is_refused() -> None:
    with pytest.raises(BadInputError, match="no pairs"):
        mean_difference([1.0], [1.0, 2.0])
    with pytest.raises(BadInputError, match="no pairs"):
        mean_difference([], [])


def test_blocks_are_of_neighbours_and_lose_nothing() -> None:
    values = np.arange(10, dtype=np.float64)
    assert block_means(values, 5) == [0.5, 2.5, 4.5, 6.5, 8.5]
    with pytest.raises(BadInputError, match="blocks"):
        block_means(values, 11)
