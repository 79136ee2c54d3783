"""Attention over pages: the compiled path equals torch's, and both equal attention written out."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.core.errors import BadInputError
from quiltwork.layers import PAGE_TOKENS, PagedKV
from quiltwork.layers.attention import (
    HeadNorms,
    HeadShape,
    attend_paged,
    attend_torch,
    gather_pages,
    place_torch,
)
from quiltwork.layers.norm import rms_norm_torch
from quiltwork.layers.rope import RopeTable, rotate

ROPE = {"type": "default", "theta": 100.0, "max_position_embeddings": 256}


def cases(counts: list[int], before: list[int], shape: HeadShape, seed: int) -> tuple[torch.Tensor, PagedKV]:
    """(qkv, kv): shuffled pages filled with history, unwritten slots holding NaN."""
    torch.manual_seed(seed)
    width = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
    pages = max(-(-(b + n) // PAGE_TOKENS) for n, b in zip(counts, before, strict=True)) + 1
    pool = torch.full((len(counts) * pages + 1, 2, shape.num_kv_heads, PAGE_TOKENS, shape.head_dim), float("nan"))
    table = (torch.randperm(len(counts) * pages) + 1).view(len(counts), pages).to(torch.int32)
    for s, tokens in enumerate(before):
        for t in range(tokens):
            pool[table[s, t // PAGE_TOKENS], :, :, t % PAGE_TOKENS] = torch.randn(2, shape.num_kv_heads, shape.head_dim)
    return torch.randn(sum(counts), width), PagedKV(pool, table)


@settings(max_examples=60, deadline=None)
@given(
    runs=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 50)), min_size=1, max_size=4),
    decode=st.booleans(),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    head_dim=st.sampled_from([2, 6, 16, 24, 64]),
    window=st.one_of(st.none(), st.integers(1, 40)),
    rotary=st.booleans(),
    normed=st.sampled_from(["no", "one weight", "a weight per row"]),
    long_run=st.sampled_from([2, 8, 1000]),
    seed=st.integers(0, 1000),
)
def test_compiled_equals_torch(
    toy: ModuleType,
    runs: list[tuple[int, int]],
    decode: bool,
    kv_heads: int,
    group: int,
    head_dim: int,
    window: int | None,
    rotary: bool,
    normed: str,
    long_run: int,
    seed: int,
) -> None:
    counts, before = [1 if decode else n for n, _ in runs], [b for _, b in runs]
    shape = HeadShape(kv_heads * group, kv_heads, head_dim, window, 1e-6)
    qkv, kv = cases(counts, before, shape, seed)
    batch = toy.runs_of(counts, before)
    angles = RopeTable(ROPE, head_dim, torch.device("cpu")).upto(128) if rotary else None
    norms = None
    if normed != "no":
        size = (head_dim,) if normed == "one weight" else (batch.rows, head_dim)
        norms = HeadNorms(torch.rand(size) + 0.5, torch.rand(size) + 0.5)
    other = PagedKV(kv.pool.clone(), kv.table)
    q = place_torch(qkv.clone(), batch, other, shape, angles, norms)
    expected = attend_torch(q, batch, other, shape, 0.3)
    got = attend_paged(qkv, batch, kv, shape, angles, norms, 0.3, long_run)
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(kv.pool, other.pool, atol=1e-6, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("window", [None, 1, 17, 40])
@pytest.mark.parametrize(("count", "before"), [(1, 0), (1, 35), (20, 0), (20, 33)])
def test_equals_attention_written_out(toy: ModuleType, window: int | None, count: int, before: int) -> None:
    shape = HeadShape(4, 2, 8, window, 1e-6)
    qkv, kv = cases([count], [before], shape, seed=0)
    batch = toy.runs_of([count], [before])
    cos, sin = angles = RopeTable(ROPE, 8, torch.device("cpu")).upto(128)
    norms = HeadNorms(torch.rand(8), torch.rand(8))
    heads = qkv.view(count, 8, 8)
    at = slice(before, before + count)
    q = rotate(rms_norm_torch(heads[:, :4], norms.q, 1e-6), cos[at], sin[at])
    k = rotate(rms_norm_torch(heads[:, 4:6], norms.k, 1e-6), cos[at], sin[at])
    old_k, old_v = gather_pages(kv, 0, before)
    keys = torch.cat([old_k, k.transpose(0, 1)], dim=1)
    values = torch.cat([old_v, heads[:, 6:].transpose(0, 1)], dim=1)
    rows = []
    for i in range(count):
        first = 0 if window is None else max(0, before + i - window + 1)
        seen = slice(first, before + i + 1)
        for h in range(4):
            weights = (keys[h // 2, seen] @ q[i, h] * 0.3).softmax(0)
            rows.append(weights @ values[h // 2, seen])
    expected = torch.stack(rows).view(count, 32)
    torch.testing.assert_close(attend_paged(qkv, batch, kv, shape, angles, norms, 0.3), expected, atol=1e-5, rtol=1e-4)


def test_a_sequence_is_the_same_alone_and_in_a_batch(toy: ModuleType) -> None:
    shape = HeadShape(4, 2, 16, None, 1e-6)
    counts, before = [1, 5, 1, 30], [40, 3, 0, 20]
    qkv, kv = cases(counts, before, shape, seed=1)
    alone = PagedKV(kv.pool.clone(), kv.table)
    together = attend_paged(qkv.clone(), toy.runs_of(counts, before), kv, shape, None, None, 0.25)
    rows = qkv.split(counts)
    for s, (count, start) in enumerate(zip(counts, before, strict=True)):
        own = PagedKV(alone.pool, alone.table[s : s + 1].clone())
        single = attend_paged(rows[s].clone(), toy.runs_of([count], [start]), own, shape, None, None, 0.25)
        assert torch.equal(together.split(counts)[s], single)


def test_huge_scores_do_not_overflow(toy: ModuleType) -> None:
    shape = HeadShape(2, 2, 8, None, 1e-6)
    qkv, kv = cases([1], [30], shape, seed=2)
    out = attend_paged(qkv * 1e4, toy.runs_of([1], [30]), kv, shape, None, None, 1.0)
    assert torch.isfinite(out).all()


def test_half_precision_is_near_float32(toy: ModuleType) -> None:
    shape = HeadShape(4, 2, 16, 20, 1e-6)
    counts, before = [1, 9], [33, 4]
    qkv, kv = cases(counts, before, shape, seed=3)
    angles = RopeTable(ROPE, 16, torch.device("cpu")).upto(64)
    half = PagedKV(kv.pool.bfloat16(), kv.table)
    batch = toy.runs_of(counts, before)
    near = attend_paged(qkv.bfloat16(), batch, half, shape, angles, None, 0.25)
    exact = attend_paged(qkv, batch, kv, shape, angles, None, 0.25)
    assert near.dtype == torch.bfloat16
    torch.testing.assert_close(near.float(), exact, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("wrong", ["page", "negative page", "position", "table", "starts", "pool"])
def test_pages_that_are_not_there_are_refused(toy: ModuleType, wrong: str) -> None:
    shape = HeadShape(2, 2, 8, None, 1e-6)
    qkv, kv = cases([2, 1], [3, 20], shape, seed=4)
    batch, before = toy.runs_of([2, 1], [3, 20]), kv.pool.clone()
    if wrong in ("page", "negative page"):
        kv.table[1, 0] = len(kv.pool) if wrong == "page" else -1
    elif wrong == "position":
        batch.positions[1] = kv.table.shape[1] * PAGE_TOKENS
    elif wrong == "table":
        kv = PagedKV(kv.pool, kv.table[:1])
    elif wrong == "starts":
        batch.starts[-1] += 1
    else:
        shape = HeadShape(2, 1, 8, None, 1e-6)
        qkv = qkv[:, :32].contiguous()
    with pytest.raises(BadInputError, match="kv"):
        attend_paged(qkv, batch, kv, shape, None, None, 1.0)
    torch.testing.assert_close(kv.pool, before, equal_nan=True)
