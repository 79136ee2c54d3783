"""A checkpoint comes back as it was, or is refused; and one that is being written never harms the one before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.numpy import save_file

from quiltwork.core.checkpoint import CheckpointFile
from quiltwork.core.errors import BadInputError, CorruptionError, QuiltworkError
from quiltwork.core.trainable import State

STATE = State(
    {"a/b": np.arange(6, dtype=np.float32).reshape(2, 3), "half": np.uint16([1, 2]), "step": np.array(3.5)},
    {"done": 3, "bfloat16": ["half"], "rng": {"key": [1, 2]}, "word": "é"},
)
DTYPES = ["float32", "float64", "int64", "uint16", "uint8", "bool"]


def equal(a: State, b: State) -> bool:
    same = set(a.arrays) == set(b.arrays) and a.meta == b.meta
    return same and all(
        a.arrays[n].dtype == b.arrays[n].dtype and np.array_equal(a.arrays[n], b.arrays[n]) for n in a.arrays
    )


def test_where_there_is_none_there_is_no_state(tmp_path):
    assert CheckpointFile(tmp_path / "none").read() is None


def test_what_was_written_is_read_and_a_folder_is_made_for_it(tmp_path):
    place = CheckpointFile(tmp_path / "deep" / "er" / "c.safetensors")
    place.write(STATE)
    assert equal(place.read(), STATE)
    assert [path.name for path in place.path.parent.iterdir()] == ["c.safetensors"]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), name=st.text("abc/._é ", min_size=1, max_size=20))
def test_arrays_of_any_kind_and_shape_come_back(tmp_path_factory, data, name):
    shape = array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    array = data.draw(st.sampled_from(DTYPES).flatmap(lambda dtype: arrays(dtype, shape)))
    state = State({name: array.T}, {"n": 1})
    place = CheckpointFile(tmp_path_factory.mktemp("c") / "c")
    place.write(state)
    back = place.read().arrays[name]
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.T.shape, array.T.tobytes())


def test_a_newer_state_takes_the_place_of_the_older(tmp_path):
    place = CheckpointFile(tmp_path / "c")
    place.write(STATE)
    place.write(State({}, {"done": 4}))
    assert place.read().meta == {"done": 4}


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    place = CheckpointFile(tmp_path / "c")
    place.write(STATE)
    whole = place.path.read_bytes()
    for length in range(0, len(whole), 7):
        place.path.write_bytes(whole[:length])
        with pytest.raises(CorruptionError, match="truncated or damaged"):
            place.read()


def test_a_changed_byte_of_an_array_is_noticed(tmp_path):
    place = CheckpointFile(tmp_path / "c")
    place.write(STATE)
    data = bytearray(place.path.read_bytes())
    data[-1] ^= 1
    place.path.write_bytes(data)
    with pytest.raises(CorruptionError, match="does not have its digest"):
        place.read()


def test_a_file_of_tensors_that_is_no_checkpoint_is_refused(tmp_path):
    save_file({"w": np.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(BadInputError, match=r"model\.safetensors: is not a checkpoint"):
        CheckpointFile(tmp_path / "model.safetensors").read()


def test_a_folder_in_its_place_is_refused(tmp_path):
    with pytest.raises(QuiltworkError, match="cannot be read"):
        CheckpointFile(tmp_path).read()


def test_a_state_that_cannot_be_written_leaves_the_one_before_and_nothing_else(tmp_path):
    place = CheckpointFile(tmp_path / "c")
    place.write(STATE)
    with pytest.raises(QuiltworkError, match="c: cannot be written"):
        place.write(State({"w": np.zeros(2, dtype="datetime64[s]")}, {}))
    assert equal(place.read(), STATE)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
