"""Loops shared by several threads do all the work once, whoever does it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numba import carray

from quiltwork.layers.attention_kernels import attend
from quiltwork.layers.team import float32_at, run_shared, take_ticket, team_size


def _count(call):  # type: ignore[no-untyped-def]
    c = carray(call, 3)
    done = carray(float32_at(c[2]), (c[1],))
    unit = take_ticket(call)
    while unit < c[1]:
        done[unit] += np.float32(1)
        unit = take_ticket(call)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_unit_is_done_once(count: int) -> None:
    done = np.zeros(10_000, np.float32)
    run_shared(_count, (done.shape[0], done.ctypes.data), count)
    assert done.min() == done.max() == 1


def test_little_work_stays_on_one_thread(threads: None) -> None:
    torch.set_num_threads(3)
    assert team_size(99, 100) == 1
    assert team_size(100, 100) in (1, 3)  # 1 where torch brought no OpenMP
    torch.set_num_threads(1)
    assert team_size(10**9, 100) == 1


@pytest.mark.parametrize("rows_each", [1, 5])
def test_attention_on_several_threads_equals_one(threads: None, rows_each: int) -> None:
    heads, kv_heads, width, tokens, sequences = 8, 4, 64, 200, 6
    random, pages = np.random.default_rng(0), -(-tokens // 16)
    rows = sequences * rows_each
    pool = random.standard_normal((sequences * pages, 2, kv_heads, 16, width), np.float32)
    table = random.permutation(sequences * pages).astype(np.int32).reshape(sequences, pages)
    positions = np.concatenate([np.arange(tokens - rows_each, tokens)] * sequences)
    starts = np.arange(0, rows + 1, rows_each, dtype=np.int32)
    qkv = random.standard_normal((rows, heads + 2 * kv_heads, width), np.float32)
    answers = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        out = np.full((rows, heads, width), np.nan, np.float32)
        attend(qkv, positions, starts, table, pool, out, window=0, longest_run=rows_each, scale=0.125)
        answers.append(out)
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])
