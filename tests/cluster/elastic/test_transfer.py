"""A state that goes from one worker to others arrives as it was."""

from __future__ import annotations

import numpy as np
import pytest
from group_threads import ranks
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from quiltwork.cluster.elastic.transfer import _pieces, receive_state, send_state
from quiltwork.core.errors import BadInputError
from quiltwork.core.trainable import State


def moved(state, receivers=1):
    def work(group):
        if group.rank == 0:
            send_state(group, state, {"done": 7})
            return None
        return receive_state(group)

    return ranks(receivers + 1, work)[1:]


def same(a, b):
    return (a.dtype, a.shape) == (b.dtype, b.shape) and a.tobytes() == b.tobytes()


def test_large_and_small_arrays_arrive_at_all_receivers():
    rng = np.random.default_rng(0)
    state = State(
        {
            "large": rng.normal(size=(700, 400)),
            "small": np.arange(3, dtype=np.uint16),
            "none": np.zeros((0, 4), np.float32),
            "scalar": np.array(2.5),
            "turned": rng.normal(size=(300, 500)).astype(np.float32).T,
            "flags": np.array([True, False]),
            "last": np.arange(5),
        },
        {"bfloat16": ["small"], "epoch": 3},
    )
    for got, beside in moved(state, receivers=2):
        assert beside == {"done": 7}
        assert got.meta == state.meta
        assert list(got.arrays) == list(state.arrays)
        assert all(same(got.arrays[name], np.asarray(state.arrays[name], order="C")) for name in state.arrays)
        assert all(array.flags.writeable for array in got.arrays.values())


@settings(max_examples=8, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=5),
        arrays.arrays(
            st.sampled_from(["f2", "f4", "f8", "i8", "u2", "?", "c8"]), arrays.array_shapes(min_dims=0, min_side=0)
        ),
        max_size=5,
    )
)
def test_any_arrays_arrive(made):
    ((got, _),) = moved(State(made, {}))
    assert got.arrays.keys() == made.keys()
    assert all(same(got.arrays[name], np.asarray(made[name], order="C")) for name in made)


@given(st.lists(st.integers(0, 3 << 20), max_size=30))
def test_pieces_have_all_arrays_once_and_large_ones_alone(sizes):
    pieces = list(_pieces(sizes))
    assert [at for first, last in pieces for at in range(first, last)] == list(range(len(sizes)))
    assert all(last - first == 1 or sum(sizes[first:last]) <= 1 << 20 for first, last in pieces)


def test_an_array_that_has_no_plain_type_is_named():
    with pytest.raises(BadInputError, match="state: t: cannot be sent"):
        send_state(None, State({"t": np.array(["2020-01-01"], "datetime64[D]")}, {}), {})
