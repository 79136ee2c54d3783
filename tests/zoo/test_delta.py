"""Differences give back the very bits; rounded ones say how far off they are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quiltwork.zoo import delta, lossy
from quiltwork.zoo.dtypes import PIECE, from_float32, itemsize, to_float32
from quiltwork.zoo.packing import Malformed

FLOATS = ("F32", "BF16", "F16", "F64")
SPECIAL = {"F32": "<u4", "BF16": "<u2", "F16": "<u2", "F64": "<u8"}


def as_bytes(array):
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1)


def exact(data, dtype, base, base_dtype):
    payload = np.frombuffer(b"".join(delta.encode(data, dtype, base, base_dtype)), dtype=np.uint8)
    assert delta.decode(payload, data.size, base).tobytes() == data.tobytes()
    return payload


def perturbed(rng, count, relative=0.06):
    base = (rng.standard_normal(count) * 0.02).astype(np.float32)
    return base, (base + rng.standard_normal(count) * 0.02 * relative).astype(np.float32)


@given(data=st.data(), dtype=st.sampled_from(FLOATS), base_dtype=st.sampled_from(FLOATS))
def test_any_bits_come_back_from_any_base(data, dtype, base_dtype):
    if not delta.comparable(dtype, base_dtype):
        return
    bits = hnp.arrays(SPECIAL[dtype], st.integers(0, 50))
    base = hnp.arrays(SPECIAL[base_dtype], st.integers(0, 50))
    exact(as_bytes(data.draw(bits)), dtype, as_bytes(data.draw(base)), base_dtype)


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_payloads_infinities_and_negative_zero_come_back(dtype):
    ones = (1 << (8 * itemsize(dtype))) - 1
    patterns = np.array([0, 1, ones, ones >> 1, (ones >> 1) + 1, (ones >> 1) + 2, ones - 1, ones >> 2], SPECIAL[dtype])
    exact(as_bytes(patterns), dtype, as_bytes(patterns[::-1]), dtype)


def test_a_six_percent_fine_tune_of_fp32_shrinks_by_28_percent():
    base, tuned = perturbed(np.random.default_rng(0), 1 << 18)
    payload = exact(as_bytes(tuned), "F32", as_bytes(base), "F32")
    assert payload.size <= 0.72 * tuned.nbytes


@pytest.mark.parametrize(
    ("dtype", "base_dtype", "at_most"), [("BF16", "BF16", 0.44), ("F16", "F16", 0.65), ("BF16", "F32", 0.44)]
)
def test_a_six_percent_fine_tune_in_half_precision_shrinks_more(dtype, base_dtype, at_most):
    base, tuned = perturbed(np.random.default_rng(0), 1 << 18)
    data = from_float32(tuned, dtype)
    payload = exact(data, dtype, from_float32(base, base_dtype), base_dtype)
    assert payload.size <= at_most * data.size


def test_rows_that_were_appended_cost_only_themselves():
    rng = np.random.default_rng(0)
    base = rng.standard_normal((4000, 64)).astype(np.float32)
    grown = np.concatenate([base, rng.standard_normal((16, 64)).astype(np.float32)])
    assert exact(as_bytes(grown), "F32", as_bytes(base), "F32").size < 1.1 * 16 * 64 * 4
    assert exact(as_bytes(base[:3000]), "F32", as_bytes(base), "F32").size < 1000


def test_tensors_larger_than_a_piece_come_back():
    base, tuned = perturbed(np.random.default_rng(1), PIECE + 1000)
    exact(as_bytes(tuned), "F32", as_bytes(base[: PIECE + 10]), "F32")


def test_unrelated_tensors_are_not_worth_a_delta():
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(1 << 14).astype(np.float32) * scale for scale in (1, 100))
    assert delta.expected_ratio(as_bytes(a), "F32", as_bytes(b), "F32") == 1.0
    assert delta.expected_ratio(as_bytes(a), "F32", as_bytes(a * np.float32(1.01)), "F32") < 0.8


@settings(max_examples=60)
@given(st.data())
def test_damaged_payloads_never_raise_anything_but_malformed(data):
    base, tuned = perturbed(np.random.default_rng(0), 300)
    code = data.draw(st.sampled_from(["exact", "int8", "int4"]))
    if code == "exact":
        pieces, decode = delta.encode(as_bytes(tuned), "F32", as_bytes(base), "F32"), delta.decode
    else:
        pieces = lossy.encode(as_bytes(tuned), "F32", as_bytes(base), "F32", columns=30, code=code)
        decode = lossy.decode
    payload = bytearray(b"".join(pieces))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    cut = payload[: data.draw(st.integers(0, len(payload)))] if data.draw(st.booleans()) else payload
    try:
        out = decode(np.frombuffer(bytes(cut), dtype=np.uint8), tuned.nbytes, as_bytes(base))
    except Malformed:
        return
    assert out.size == tuned.nbytes


@pytest.mark.parametrize(("code", "at_most_bytes", "at_most_error"), [("int8", 0.26, 0.001), ("int4", 0.14, 0.01)])
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_a_rounded_difference_is_small_and_close(dtype, code, at_most_bytes, at_most_error):
    base, tuned = (from_float32(values, dtype) for values in perturbed(np.random.default_rng(0), 512 * 257))
    pieces = lossy.encode(tuned, dtype, base, dtype, columns=257, code=code)
    payload = np.frombuffer(b"".join(pieces), dtype=np.uint8)
    decoded = lossy.decode(payload, tuned.size, base)
    assert payload.size <= at_most_bytes * 4 * (tuned.size // itemsize(dtype))
    slack = 0.003 if dtype == "BF16" else 0.0  # bf16 itself rounds by up to 2**-9
    assert lossy.relative_error(tuned, decoded, dtype) <= at_most_error + slack
    measured = np.linalg.norm((to_float32(tuned, dtype) - to_float32(decoded, dtype)).astype(np.float64))
    whole = np.linalg.norm(to_float32(tuned, dtype).astype(np.float64))
    assert lossy.relative_error(tuned, decoded, dtype) == pytest.approx(measured / whole)


def test_a_tensor_equal_to_its_base_has_no_rounding_error():
    values = as_bytes(np.linspace(-1, 1, 60, dtype=np.float32))
    payload = b"".join(lossy.encode(values, "F32", values, "F32", columns=6, code="int4"))
    assert lossy.decode(np.frombuffer(payload, dtype=np.uint8), values.size, values).tobytes() == values.tobytes()


def test_values_that_are_not_finite_are_not_rounded():
    values = np.ones(8, dtype=np.float32)
    broken = values.copy()
    broken[3] = np.nan
    assert lossy.possible(as_bytes(values), "F32", as_bytes(values), "F32")
    assert not lossy.possible(as_bytes(broken), "F32", as_bytes(values), "F32")
    assert not lossy.possible(as_bytes(values), "F32", as_bytes(broken), "F32")
