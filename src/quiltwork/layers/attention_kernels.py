"""Attention over pages as compiled loops, for float32 on a CPU (see ``attention`` for what is computed)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import carray

from quiltwork.layers.compiled import exp32, kernel, prefetch_bytes
from quiltwork.layers.protocol import PAGE_TOKENS
from quiltwork.layers.rope import rotate_head, rotate_head_in_place
from quiltwork.layers.team import float32_at, int32_at, int64_at, run_shared, take_ticket, team_size

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[Any]

_WORTH_SHARING = 1 << 18
"""Key elements below which one thread is done before others have started."""


@kernel(inline="always")
def _norm_head(head, weight, eps):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for j in range(head.shape[0]):
        total += head[j] * head[j]
    factor = np.float32(1) / np.sqrt(total / np.float32(head.shape[0]) + eps)
    for j in range(head.shape[0]):
        head[j] = head[j] * factor * weight[j]


@kernel()
def in_bounds(positions, starts, table, pages):  # type: ignore[no-untyped-def]
    """Whether rows and pages that the loops below will touch are there: nothing checks it later."""
    if starts[0] != 0 or starts[-1] != positions.shape[0] or starts.shape[0] - 1 > table.shape[0]:
        return False
    for s in range(starts.shape[0] - 1):
        if starts[s + 1] < starts[s]:
            return False
        for i in range(starts[s], starts[s + 1]):
            if positions[i] < 0 or positions[i] // PAGE_TOKENS >= table.shape[1]:
                return False
        if starts[s + 1] > starts[s]:
            for p in range(positions[starts[s + 1] - 1] // PAGE_TOKENS + 1):
                if table[s, p] < 0 or table[s, p] >= pages:
                    return False
    return True


@kernel()
def place(heads, num_heads, positions, starts, table, pool, cos, sin, q_norm, k_norm, eps):  # type: ignore[no-untyped-def]
    kv_heads, page_tokens, width = pool.shape[2], pool.shape[3], pool.shape[4]
    for s in range(starts.shape[0] - 1):
        for i in range(starts[s], starts[s + 1]):
            position = positions[i]
            page, slot = table[s, position // page_tokens], position % page_tokens
            if q_norm.shape[0] > 0:
                for h in range(num_heads):
                    _norm_head(heads[i, h], q_norm[i if q_norm.shape[0] > 1 else 0], eps)
                for h in range(num_heads, num_heads + kv_heads):
                    _norm_head(heads[i, h], k_norm[i if k_norm.shape[0] > 1 else 0], eps)
            if cos.shape[0] > 0:
                for h in range(num_heads):
                    rotate_head_in_place(heads[i, h], cos[position], sin[position])
                for h in range(kv_heads):
                    rotate_head(heads[i, num_heads + h], cos[position], sin[position], pool[page, 0, h, slot])
            else:
                for h in range(kv_heads):
                    for j in range(width):
                        pool[page, 0, h, slot, j] = heads[i, num_heads + h, j]
            for h in range(kv_heads):
                for j in range(width):
                    pool[page, 1, h, slot, j] = heads[i, num_heads + kv_heads + h, j]


@kernel()
def _attend_row(heads, pages, pool, first, last, from_kv, to_kv, scale, scratch, out):  # type: ignore[no-untyped-def]
    """One row's query heads that share key heads ``from_kv`` to ``to_kv``, over tokens ``first`` to ``last``.

    Softmax is kept online. Pages are read in the order they lie in memory, the next head's keys and values being
    fetched meanwhile: a decode step reads the whole cache once and waits for memory more than it computes.
    """
    kv_heads, page_tokens, width = pool.shape[2], pool.shape[3], pool.shape[4]
    group, chunk = heads.shape[0] // kv_heads, page_tokens * width * 4
    base = pool.ctypes.data
    scores, highest, total = scratch[0], scratch[1], scratch[2]
    final = last // page_tokens
    for h in range(from_kv * group, to_kv * group):
        highest[h], total[h] = np.float32(-3e38), np.float32(0)
        for j in range(width):
            out[h, j] = np.float32(0)
    for p in range(first // page_tokens, final + 1):
        page = pages[p]
        low = max(0, first - p * page_tokens)
        high = min(page_tokens, last - p * page_tokens + 1)
        whole = low + (high - low) // 4 * 4
        for kh in range(from_kv, to_kv):
            following, place = (page, kh + 1) if kh + 1 < to_kv else (pages[min(p + 1, final)], from_kv)
            ahead = base + (np.int64(following) * 2 * kv_heads + place) * chunk
            prefetch_bytes(ahead, chunk)
            prefetch_bytes(ahead + kv_heads * chunk, chunk)
            keys, values = pool[page, 0, kh], pool[page, 1, kh]
            for h in range(kh * group, kh * group + group):
                query, result = heads[h], out[h]
                above = highest[h]
                for t in range(low, whole, 4):
                    a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
                    for j in range(width):
                        x = query[j]
                        a += x * keys[t, j]
                        b += x * keys[t + 1, j]
                        c += x * keys[t + 2, j]
                        d += x * keys[t + 3, j]
                    scores[t], scores[t + 1] = a * scale, b * scale
                    scores[t + 2], scores[t + 3] = c * scale, d * scale
                for t in range(whole, high):
                    a = np.float32(0)
                    for j in range(width):
                        a += query[j] * keys[t, j]
                    scores[t] = a * scale
                for t in range(low, high):
                    above = max(above, scores[t])
                if above > highest[h]:
                    shrink = exp32(highest[h] - above)
                    total[h] *= shrink
                    for j in range(width):
                        result[j] *= shrink
                    highest[h] = above
                added = np.float32(0)
                for t in range(low, high):
                    scores[t] = exp32(scores[t] - above)
                    added += scores[t]
                total[h] += added
                for t in range(low, whole, 4):
                    a, b, c, d = scores[t], scores[t + 1], scores[t + 2], scores[t + 3]
                    for j in range(width):
                        result[j] += (
                            a * values[t, j] + b * values[t + 1, j] + c * values[t + 2, j] + d * values[t + 3, j]
                        )
                for t in range(whole, high):
                    a = scores[t]
                    for j in range(width):
                        result[j] += a * values[t, j]
    for h in range(from_kv * group, to_kv * group):
        share = np.float32(1) / total[h]
        for j in range(width):
            out[h, j] *= share


@kernel()
def _attend_units(counter, splits, heads, num_heads, positions, starts, table, pool, window, scale, longest_run, out):  # type: ignore[no-untyped-def]
    """Rows of runs of up to ``longest_run`` rows; a row's key heads are divided among ``splits`` units.

    Units are taken by ticket, the last rows first: they see most.
    """
    rows, kv_heads, page_tokens = heads.shape[0], pool.shape[2], pool.shape[3]
    owner = np.empty(rows, np.int64)
    for s in range(starts.shape[0] - 1):
        owner[starts[s] : starts[s + 1]] = s if starts[s + 1] - starts[s] <= longest_run else -1
    scratch = np.empty((3, max(page_tokens, num_heads)), np.float32)
    unit = take_ticket(counter)
    while unit < rows * splits:
        i, split = rows - 1 - unit // splits, unit % splits
        s = owner[i]
        if s >= 0:
            last = positions[i]
            first = max(0, last - window + 1) if window > 0 else 0
            from_kv, to_kv = kv_heads * split // splits, kv_heads * (split + 1) // splits
            _attend_row(heads[i, :num_heads], table[s], pool, first, last, from_kv, to_kv, scale, scratch, out[i])
        unit = take_ticket(counter)


def _attend_loop(call):  # type: ignore[no-untyped-def]
    c = carray(call, 19)
    rows, sequences, num_heads, width, kv_heads = c[1], c[2], c[3], c[4], c[5]
    heads = carray(float32_at(c[9]), (rows, num_heads + 2 * kv_heads, width))
    positions, starts = carray(int64_at(c[10]), (rows,)), carray(int32_at(c[11]), (sequences + 1,))
    table = carray(int32_at(c[12]), (sequences, c[6]))
    pool = carray(float32_at(c[13]), (c[7], 2, kv_heads, c[8], width))
    out = carray(float32_at(c[14]), (rows, num_heads, width))
    scale = np.float32(np.int64(c[17]).view(np.float64))
    _attend_units(call, c[18], heads, num_heads, positions, starts, table, pool, c[15], scale, c[16], out)


def attend(
    heads: Floats,
    positions: Integers,
    starts: Integers,
    table: Integers,
    pool: Floats,
    out: Floats,
    *,
    window: int,
    longest_run: int,
    scale: float,
) -> None:
    """Attention of every row of a run of at most ``longest_run`` rows over its sequence's pages, into ``out``.

    heads (rows, heads + 2 key heads, width); positions int64 (rows,); starts int32 (sequences + 1,); table int32
    (sequences, pages); pool (pages in all, 2, key heads, tokens, width); out (rows, heads, width). All contiguous.
    window : tokens a row sees, 0 for all. Shared among threads where there is enough to read for it to pay.
    """
    rows, num_heads, width = out.shape
    pages, _, kv_heads, page_tokens, _ = pool.shape
    threads = team_size(rows * table.shape[1] * page_tokens * kv_heads * width, _WORTH_SHARING)
    splits = 1 if threads == 1 else min(kv_heads, -(-2 * threads // rows))
    sizes = (rows, table.shape[0], num_heads, width, kv_heads, table.shape[1], pages, page_tokens)
    places = (array.ctypes.data for array in (heads, positions, starts, table, pool, out))
    scale_bits = int(np.float64(scale).view(np.int64))
    run_shared(_attend_loop, (*sizes, *places, window, longest_run, scale_bits, splits), threads)
