"""Shuffled epochs, whatever the sizes of the steps in which they are read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.core.errors import BadInputError
from quiltwork.core.sample_order import SampleOrder


@given(samples=st.integers(1, 50), seed=st.integers(0, 99), batches=st.lists(st.integers(0, 70), max_size=12))
def test_every_epoch_has_every_sample_once_whatever_the_batches(samples, seed, batches):
    taken, read = 0, []
    for batch in batches:
        ids = SampleOrder(samples, seed).ids(taken, batch)  # from the position alone, as after a resumption
        assert (ids.dtype, ids.shape) == (np.int64, (batch,))
        taken += batch
        read.extend(ids.tolist())
    for epoch in range(taken // samples):
        assert sorted(read[epoch * samples : (epoch + 1) * samples]) == list(range(samples))


def test_epochs_differ_and_hang_on_the_seed():
    first, again, other = SampleOrder(40, 1), SampleOrder(40, 1), SampleOrder(40, 2)
    assert first.ids(0, 80).tolist() == again.ids(0, 80).tolist()
    assert first.ids(0, 40).tolist() != first.ids(40, 40).tolist()
    assert first.ids(0, 40).tolist() != other.ids(0, 40).tolist()


@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 30))
def test_two_small_steps_are_one_large_one(first, second, samples):
    order = SampleOrder(samples, 5)
    both = np.concatenate([order.ids(3, first), order.ids(3 + first, second)])
    assert both.tolist() == order.ids(3, first + second).tolist()


def test_no_samples_are_refused():
    with pytest.raises(BadInputError, match="samples: 0 is not"):
        SampleOrder(0, 1)
