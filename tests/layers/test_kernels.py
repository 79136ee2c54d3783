"""Compiled loops equal torch: norms, gates, low-rank updates, the exponential; packing loses nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from quiltwork.core.errors import UnsupportedError
from quiltwork.layers.activation import activation, gated
from quiltwork.layers.compiled import exp32
from quiltwork.layers.linear import Matrix, can_pack, fuse
from quiltwork.layers.lora import LowRank, LowRanks, Use, add_low_rank, add_low_rank_torch, batch
from quiltwork.layers.norm import layer_norm, rms_norm, rms_norm_torch

sizes = st.integers(1, 70)


def test_exponential_within_a_few_ulp() -> None:
    @njit
    def each(x: np.ndarray, out: np.ndarray) -> None:
        for i in range(x.shape[0]):
            out[i] = exp32(x[i])

    x = np.linspace(-86, 88, 20001).astype(np.float32)
    out = np.empty_like(x)
    each(x, out)
    np.testing.assert_allclose(out, np.exp(x.astype(np.float64)), rtol=4e-7)


@settings(deadline=None, max_examples=40)
@given(rows=sizes, width=sizes, per_row=st.booleans(), seed=st.integers(0, 99))
def test_rms_norm_equals_torch(rows: int, width: int, per_row: bool, seed: int) -> None:
    torch.manual_seed(seed)
    x, weight = torch.randn(rows, width), torch.randn((rows, width) if per_row else (width,))
    torch.testing.assert_close(rms_norm(x, weight, 1e-5), rms_norm_torch(x, weight, 1e-5), atol=1e-6, rtol=1e-5)


def test_rms_norm_is_computed_in_float32_for_half_precision() -> None:
    x = torch.full((1, 512), 200.0, dtype=torch.float16)
    assert torch.allclose(rms_norm(x, torch.ones(512, dtype=torch.float16), 1e-5).float(), torch.ones(1, 512))


def test_layer_norm_with_a_weight_per_row() -> None:
    x, weight, bias = torch.randn(3, 5, 16)
    rows = [F.layer_norm(x[i], (16,), weight[i], bias[i], 1e-5) for i in range(5)]
    torch.testing.assert_close(layer_norm(x, weight, bias, 1e-5), torch.stack(rows), atol=1e-6, rtol=1e-5)


@settings(deadline=None, max_examples=30)
@given(rows=sizes, width=sizes, name=st.sampled_from(["silu", "gelu", "gelu_new", "relu"]), seed=st.integers(0, 99))
def test_gate_equals_torch(rows: int, width: int, name: str, seed: int) -> None:
    torch.manual_seed(seed)
    both = torch.randn(rows, 2 * width) * 20
    expected = activation(name)(both[:, :width]) * both[:, width:]
    torch.testing.assert_close(gated(name, both), expected, atol=1e-6, rtol=2e-6)


def test_unknown_activation_is_refused_with_those_known() -> None:
    with pytest.raises(UnsupportedError, match=r"swiglu_oai.*silu"):
        activation("swiglu_oai")


@settings(deadline=None, max_examples=40)
@given(
    counts=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    ranks=st.lists(st.integers(1, 11), min_size=1, max_size=3),
    width=sizes,
    seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_low_rank_updates_of_a_batch(
    counts: list[int], ranks: list[int], width: int, seed: int, dtype: torch.dtype
) -> None:
    """Compiled single and short runs, products for long ones, padded products where nothing is compiled."""
    torch.manual_seed(seed)
    uses, begin, columns = [], 0, 9
    for s, count in enumerate(counts):
        if s % 4 != 3:
            updates = [
                LowRank(
                    torch.randn(r + s, width, dtype=dtype), torch.randn(r + s, columns, dtype=dtype), k * columns, 0.5
                )
                for k, r in enumerate(ranks)
            ]
            uses.append(Use(begin, begin + count, LowRanks(tuple(updates))))
        begin += count
    x = torch.randn(begin, width, dtype=dtype)
    y = torch.randn(begin, columns * len(ranks) + 2, dtype=dtype)
    expected = y.clone()
    add_low_rank_torch(x, expected, uses)
    add_low_rank(x, y, batch(uses))
    torch.testing.assert_close(y, expected, atol=2e-4, rtol=1e-4)


def test_every_way_of_adding_low_rank_updates_is_used() -> None:
    def use(begin: int, count: int, dtype: torch.dtype) -> Use:
        return Use(
            begin,
            begin + count,
            LowRanks((LowRank(torch.ones(2, 3, dtype=dtype), torch.ones(2, 4, dtype=dtype), 0, 1.0),)),
        )

    compiled = batch([use(0, 1, torch.float32), use(1, 100, torch.float32)])
    assert (compiled.short is not None, len(compiled.padded), len(compiled.long)) == (True, 0, 1)
    plain = batch([use(0, 1, torch.bfloat16), use(1, 2, torch.bfloat16)])
    assert (plain.short is None, len(plain.padded), len(plain.long)) == (True, 1, 1)


@pytest.mark.parametrize("layout", ["linear", "conv1d"])
@pytest.mark.parametrize("rows", [0, 1, 5, 200])
def test_fused_matrix_multiplies_like_its_parts(layout: str, rows: int) -> None:
    parts = [torch.randn(out, 24) for out in (16, 8, 8)]
    stored = [p if layout == "linear" else p.t().contiguous() for p in parts]
    matrix, x, bias = fuse(layout, *stored), torch.randn(rows, 24), torch.randn(32)
    expected = torch.cat([x @ p.t() for p in parts], dim=1) + bias
    torch.testing.assert_close(matrix(x, bias), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(matrix.dense(), torch.cat(parts))
    assert matrix.nbytes == 32 * 24 * 4


def test_half_precision_and_small_builds_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = torch.randn(8, 24), torch.randn(3, 24)
    half = fuse("linear", weight.bfloat16())
    assert isinstance(half, Matrix)
    assert not half.packed
    assert half(x.bfloat16()).dtype == torch.bfloat16
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not can_pack(weight)
    plain = fuse("linear", weight)
    assert not plain.packed
    torch.testing.assert_close(plain(x), x @ weight.t())


def test_unknown_layout_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="layout"):
        fuse("blocked", torch.randn(2, 2))


def test_low_rank_updates_on_several_threads_equal_one() -> None:
    def use(row: int) -> Use:
        updates = tuple(LowRank(torch.randn(9, 300), torch.randn(9, 400), k * 400, 0.1) for k in range(2))
        return Use(row, row + 1, LowRanks(updates))

    batched, x, one, two = batch([use(row) for row in range(16)]), torch.randn(16, 300), *torch.zeros(2, 16, 800)
    before = torch.get_num_threads()
    try:
        for threads, y in ((1, one), (2, two)):
            torch.set_num_threads(threads)
            add_low_rank(x, y, batched)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-5)
