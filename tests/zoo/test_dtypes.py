"""Every bit pattern survives narrowing and widening; equal values end up in one form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.zoo.dtypes import PIECE, f16_as_f32_bits, from_float32, itemsize, narrowed, to_float32, widen

ALL16 = np.arange(1 << 16, dtype=np.uint16)


def as_bytes(array):
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1)


def bf16_as_f32(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def round_trip(data, dtype):
    stored_dtype, stored = narrowed(data, dtype)
    assert widen(stored, stored_dtype, dtype).tobytes() == data.tobytes()
    return stored_dtype


def test_half_table_agrees_with_numpy_on_every_number():
    expected = ALL16.view(np.float16).astype(np.float32)
    table = f16_as_f32_bits().view(np.float32)
    numbers = ~np.isnan(expected)
    assert np.array_equal(table[numbers].view(np.uint32), expected[numbers].view(np.uint32))
    assert np.isnan(table[~numbers]).all()


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_each_half_precision_pattern_survives_alone_and_in_company(dtype):
    assert round_trip(as_bytes(ALL16), dtype) == dtype
    for pattern in range(0, 1 << 16, 7):
        round_trip(as_bytes(ALL16[pattern : pattern + 1]), dtype)


def test_fp32_made_from_bf16_is_stored_as_bf16_whatever_the_bits():
    stored_dtype, stored = narrowed(as_bytes(ALL16.astype(np.uint32) << 16), "F32")
    assert (stored_dtype, stored.tobytes()) == ("BF16", ALL16.tobytes())


def test_fp32_made_from_f16_is_stored_as_f16_whatever_the_bits():
    stored_dtype, stored = narrowed(as_bytes(f16_as_f32_bits()), "F32")
    assert (stored_dtype, stored.tobytes()) == ("F16", ALL16.tobytes())


@pytest.mark.parametrize("values", [[1.0, -0.0, 0.5], [1.0009765625, 2.0], [0.1, 2.0]])
def test_equal_values_have_one_form_in_every_dtype_that_holds_them(values):
    forms = set()
    for dtype, kind in (("F64", np.float64), ("F32", np.float32), ("F16", np.float16)):
        array = np.array(values, dtype=np.float64).astype(kind)
        if np.array_equal(array.astype(np.float64), values):
            stored_dtype, stored = narrowed(as_bytes(array), dtype)
            forms.add((stored_dtype, stored.tobytes()))
    assert len(forms) == 1


@given(hnp.arrays(np.uint32, st.integers(0, 40)))
def test_any_fp32_bits_survive(bits):
    round_trip(as_bytes(bits), "F32")


@given(hnp.arrays(np.uint64, st.integers(0, 40)))
def test_any_fp64_bits_survive(bits):
    round_trip(as_bytes(bits), "F64")


@given(hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=16, allow_nan=False)))
def test_fp64_made_from_short_floats_is_narrowed(values):
    assert round_trip(as_bytes(values.astype(np.float64)), "F64") in ("BF16", "F16")


def test_one_value_too_many_at_the_end_of_a_large_tensor_keeps_it_wide():
    values = np.ones(PIECE + 5, dtype=np.float32)
    assert round_trip(as_bytes(values), "F32") == "BF16"
    values[-1] = np.float32(0.1)
    assert round_trip(as_bytes(values), "F32") == "F32"


@pytest.mark.parametrize("dtype", ["BOOL", "U8", "I8", "F8_E4M3", "I16", "U16", "I32", "U32", "I64", "U64", "C64"])
def test_other_dtypes_are_kept_as_they_are(dtype):
    data = np.arange(8 * itemsize(dtype), dtype=np.uint8)
    assert narrowed(data, dtype)[0] == dtype
    assert narrowed(data, dtype)[1] is data


def test_an_unknown_dtype_is_named():
    with pytest.raises(UnsupportedError, match="Q4_K"):
        itemsize("Q4_K")


def test_widening_what_narrowing_never_makes_is_refused():
    with pytest.raises(BadInputError, match="F32 is not widened to BF16"):
        widen(np.zeros(4, dtype=np.uint8), "F32", "BF16")


@given(hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-(2.0**120), 2.0**120, width=32)))
def test_bf16_rounding_picks_a_nearest_value(values):
    rounded = to_float32(from_float32(values, "BF16"), "BF16").astype(np.float64)
    down = bf16_as_f32((values.view(np.uint32) >> 16).astype(np.uint16)).astype(np.float64)
    up = bf16_as_f32(((values.view(np.uint32) >> 16) + 1).astype(np.uint16)).astype(np.float64)
    best = np.minimum(np.abs(down - values), np.abs(up - values))
    assert np.array_equal(np.abs(rounded - values), best)
