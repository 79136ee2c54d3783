"""Causal attention of many sequences over one pool of pages: ragged lengths, shared key heads, sliding windows.

Every function takes the fused projection ``qkv`` (rows, (num_heads + 2 * num_kv_heads) * head_dim) and a PagedKV. The
torch functions are the reference and serve every device and dtype; the compiled ones are for float32 on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numba import prange
from torch import Tensor

from quiltwork.layers.compiled import compilable, exp32, kernel, numba_threads, parallel_is_safe, prefetch
from quiltwork.layers.norm import rms_norm_torch
from quiltwork.layers.protocol import PAGE_TOKENS, PagedKV, Runs
from quiltwork.layers.rope import rotate, rotate_head

_WORTH_SHARING = 1 << 18
"""Key elements below which one thread is done before others have started."""

LONG_RUN = 24
"""Rows from which gathering a sequence's pages for torch's blocked attention beats going over the pages row by row."""


@dataclass(frozen=True)
class HeadShape:
    """How a row of the fused projection divides into heads, and what each query sees."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int | None
    """Tokens a query sees, itself included; None for all before it."""
    eps: float
    """Of the norms over head_dim, where there are any."""


@dataclass(frozen=True)
class HeadNorms:
    """Root-mean-square weights over head_dim, one (head_dim,) for all rows or (rows, head_dim)."""

    q: Tensor
    k: Tensor


Angles = tuple[Tensor, Tensor]
"""Cosines and sines by position (see ``RopeTable.upto``)."""


def sequence_of_rows(runs: Runs) -> Tensor:
    """(rows,) int64 on the CPU: the sequence each row belongs to."""
    counts = runs.starts.diff().long()
    return torch.repeat_interleave(torch.arange(runs.sequences), counts, output_size=runs.rows)


def _per_head(weight: Tensor) -> Tensor:
    return weight[:, None] if weight.dim() == 2 else weight


def place_torch(
    qkv: Tensor, runs: Runs, kv: PagedKV, shape: HeadShape, angles: Angles | None, norms: HeadNorms | None
) -> Tensor:
    """Normalise and rotate queries and keys, write the new keys and values into their pages.

    Returns the queries, (rows, num_heads, head_dim).
    """
    heads = qkv.view(runs.rows, -1, shape.head_dim)
    widths = [shape.num_heads, shape.num_kv_heads, shape.num_kv_heads]
    q, k, v = torch.split(heads, widths, dim=1)
    if norms is not None:
        q = rms_norm_torch(q, _per_head(norms.q), shape.eps)
        k = rms_norm_torch(k, _per_head(norms.k), shape.eps)
    if angles is not None:
        cos, sin = (table[runs.positions] for table in angles)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    sequences = sequence_of_rows(runs).to(qkv.device)
    pages = kv.table.to(qkv.device)[sequences, runs.positions // PAGE_TOKENS].long()
    slots = runs.positions % PAGE_TOKENS
    kv.pool[pages, 0, :, slots] = k
    kv.pool[pages, 1, :, slots] = v
    return q


def gather_pages(kv: PagedKV, sequence: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Keys and values of one sequence's first ``tokens`` tokens, each (num_kv_heads, tokens, head_dim)."""
    pages = kv.table[sequence, : -(-tokens // PAGE_TOKENS)].long().to(kv.pool.device)
    together = kv.pool[pages].permute(1, 2, 0, 3, 4).flatten(2, 3)
    return together[0, :, :tokens], together[1, :, :tokens]


def attend_run(q: Tensor, positions: Tensor, k: Tensor, v: Tensor, shape: HeadShape, scale: float) -> Tensor:
    """Attention of one run: q (n, num_heads, head_dim) at ``positions`` over keys and values 0 to m.

    Returns (n, num_heads * head_dim).
    """
    tokens = torch.arange(k.shape[1], device=q.device)
    seen = tokens <= positions[:, None]
    if shape.window is not None:
        seen &= tokens > positions[:, None] - shape.window
    group = shape.num_heads // shape.num_kv_heads
    if group > 1:
        k, v = k.repeat_interleave(group, dim=0), v.repeat_interleave(group, dim=0)
    out = F.scaled_dot_product_attention(q.transpose(0, 1)[None], k[None], v[None], attn_mask=seen, scale=scale)
    return out[0].transpose(0, 1).flatten(1)


def attend_decode_torch(q: Tensor, runs: Runs, kv: PagedKV, shape: HeadShape, scale: float) -> Tensor:
    """Attention of one row per sequence, all sequences padded to the longest; returns (rows, num_heads * head_dim)."""
    longest = int(runs.lengths.max())
    pages = kv.table[:, : -(-longest // PAGE_TOKENS)].long().to(kv.pool.device)
    together = kv.pool[pages].permute(2, 0, 3, 1, 4, 5).flatten(3, 4)
    tokens = torch.arange(together.shape[3], device=q.device)
    seen = tokens <= runs.positions[:, None]
    if shape.window is not None:
        seen &= tokens > runs.positions[:, None] - shape.window
    k, v = torch.where(seen[None, :, None, :, None], together, 0)  # a page's unwritten tail may hold NaN
    grouped = q.view(runs.rows, shape.num_kv_heads, -1, shape.head_dim)
    out = F.scaled_dot_product_attention(grouped, k, v, attn_mask=seen[:, None, None], scale=scale)
    return out.flatten(1)


def attend_torch(q: Tensor, runs: Runs, kv: PagedKV, shape: HeadShape, scale: float) -> Tensor:
    """Attention of every row over its sequence's pages; returns (rows, num_heads * head_dim)."""
    if runs.decode_only:
        return attend_decode_torch(q, runs, kv, shape, scale)
    out = q.new_empty(runs.rows, shape.num_heads * shape.head_dim)
    starts, lengths = runs.starts.tolist(), runs.lengths.tolist()
    for sequence, (begin, end) in enumerate(pairwise(starts)):
        k, v = gather_pages(kv, sequence, lengths[sequence])
        out[begin:end] = attend_run(q[begin:end], runs.positions[begin:end], k, v, shape, scale)
    return out


@kernel(inline="always")
def _norm_head(head, weight, eps):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for j in range(head.shape[0]):
        total += head[j] * head[j]
    factor = np.float32(1) / np.sqrt(total / np.float32(head.shape[0]) + eps)
    for j in range(head.shape[0]):
        head[j] = head[j] * factor * weight[j]


@kernel()
def _place(heads, num_heads, positions, starts, table, pool, cos, sin, q_norm, k_norm, eps):  # type: ignore[no-untyped-def]
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
                    rotate_head(heads[i, h], cos[position], sin[position], heads[i, h])
                for h in range(kv_heads):
                    rotate_head(heads[i, num_heads + h], cos[position], sin[position], pool[page, 0, h, slot])
            else:
                for h in range(kv_heads):
                    for j in range(width):
                        pool[page, 0, h, slot, j] = heads[i, num_heads + h, j]
            for h in range(kv_heads):
                for j in range(width):
                    pool[page, 1, h, slot, j] = heads[i, num_heads + kv_heads + h, j]


def _attend(heads, num_heads, positions, starts, table, pool, window, scale, longest_run, splits, out):  # type: ignore[no-untyped-def]
    """Softmax kept online over pages; runs longer than ``longest_run`` are left to the caller.

    The key heads of a row are divided among ``splits`` units of work. Pages are read in the order they lie in memory,
    the next head's keys and values being fetched meanwhile: a decode step reads the whole cache once and waits for
    memory more than it computes.
    """
    kv_heads, page_tokens, width = pool.shape[2], pool.shape[3], pool.shape[4]
    group, chunk = num_heads // kv_heads, page_tokens * width * 4
    owner = np.empty(heads.shape[0], np.int64)
    for s in range(starts.shape[0] - 1):
        owner[starts[s] : starts[s + 1]] = s if starts[s + 1] - starts[s] <= longest_run else -1
    for unit in prange(heads.shape[0] * splits):
        i, split = unit // splits, unit % splits
        s = owner[i]
        if s < 0:
            continue
        from_kv, to_kv = kv_heads * split // splits, kv_heads * (split + 1) // splits
        scores = np.empty(page_tokens, np.float32)
        highest = np.full(num_heads, np.float32(-3e38))
        total = np.zeros(num_heads, np.float32)
        last = positions[i]
        first = max(0, last - window + 1) if window > 0 else 0
        final = last // page_tokens
        for h in range(from_kv * group, to_kv * group):
            for j in range(width):
                out[i, h, j] = np.float32(0)
        for p in range(first // page_tokens, final + 1):
            page = table[s, p]
            low = max(0, first - p * page_tokens)
            high = min(page_tokens, last - p * page_tokens + 1)
            whole = low + (high - low) // 4 * 4
            for kh in range(from_kv, to_kv):
                if kh + 1 < to_kv:
                    prefetch(pool[page, 0, kh + 1 :], chunk)
                    prefetch(pool[page, 1, kh + 1 :], chunk)
                elif p < final:
                    prefetch(pool[table[s, p + 1], 0, from_kv:], chunk)
                    prefetch(pool[table[s, p + 1], 1, from_kv:], chunk)
                keys, values = pool[page, 0, kh], pool[page, 1, kh]
                for h in range(kh * group, kh * group + group):
                    query, result = heads[i, h], out[i, h]
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
                out[i, h, j] *= share


_attend_serial = kernel()(_attend)
_attend_parallel = kernel(parallel=True)(_attend)


def _attend_rows(shape: HeadShape, tokens: int, *arguments: Any) -> None:
    """``_attend`` on as many threads as torch uses, where there is enough to read for it to pay.

    tokens : at least as many as a row sees.
    """
    *given, result = arguments
    threads, rows = torch.get_num_threads(), result.shape[0]
    if threads == 1 or rows * tokens * shape.num_kv_heads * shape.head_dim < _WORTH_SHARING or not parallel_is_safe():
        _attend_serial(*given, 1, result)
        return
    splits = min(shape.num_kv_heads, -(-2 * threads // rows))
    with numba_threads(threads):
        _attend_parallel(*given, splits, result)


def _compiled(
    qkv: Tensor,
    runs: Runs,
    kv: PagedKV,
    shape: HeadShape,
    angles: Angles | None,
    norms: HeadNorms | None,
    scale: float,
    long_run: int,
) -> Tensor:
    heads_width = shape.num_heads * shape.head_dim
    heads = qkv.view(runs.rows, -1, shape.head_dim)
    rows, positions, starts = heads.numpy(), runs.positions.numpy(), runs.starts.numpy()
    table, pool = kv.table.contiguous().numpy(), kv.pool.numpy()
    none = np.empty((0, shape.head_dim), np.float32)
    cos, sin = (none, none) if angles is None else (angles[0].numpy(), angles[1].numpy())
    q_norm, k_norm = (none, none) if norms is None else (w.view(-1, shape.head_dim).numpy() for w in (norms.q, norms.k))
    _place(rows, shape.num_heads, positions, starts, table, pool, cos, sin, q_norm, k_norm, np.float32(shape.eps))
    out = qkv.new_empty(runs.rows, heads_width)
    result = out.numpy().reshape(runs.rows, shape.num_heads, shape.head_dim)
    window = shape.window or 0
    longest = runs.rows if runs.decode_only else long_run - 1
    tokens = table.shape[1] * PAGE_TOKENS
    given = (rows, shape.num_heads, positions, starts, table, pool, window, np.float32(scale), longest)
    _attend_rows(shape, tokens, *given, result)
    if not runs.decode_only:
        begins, lengths = runs.starts.tolist(), runs.lengths.tolist()
        for s, (begin, end) in enumerate(pairwise(begins)):
            if end - begin >= long_run:
                k, v = gather_pages(kv, s, lengths[s])
                q = heads[begin:end, : shape.num_heads]
                out[begin:end] = attend_run(q, runs.positions[begin:end], k, v, shape, scale)
    return out


def attend_paged(
    qkv: Tensor,
    runs: Runs,
    kv: PagedKV,
    shape: HeadShape,
    angles: Angles | None,
    norms: HeadNorms | None,
    scale: float,
    long_run: int = LONG_RUN,
) -> Tensor:
    """Write the rows' keys and values to their pages, then attend: (rows, num_heads * head_dim).

    qkv : contiguous; its queries may be overwritten. angles : None where positions are not rotary.
    """
    if compilable(qkv) and compilable(kv.pool) and kv.pool.is_contiguous():
        return _compiled(qkv, runs, kv, shape, angles, norms, scale, long_run)
    q = place_torch(qkv, runs, kv, shape, angles, norms)
    return attend_torch(q, runs, kv, shape, scale)
