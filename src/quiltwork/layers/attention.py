"""Causal attention of many sequences over one pool of pages: ragged lengths, shared key heads, sliding windows.

Every function takes the fused projection ``qkv`` (rows, (num_heads + 2 * num_kv_heads) * head_dim) and a PagedKV. The
torch functions are the reference and serve every device and dtype; the compiled ones are for float32 on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quiltwork.core.errors import BadInputError
from quiltwork.layers.attention_kernels import attend, in_bounds, place
from quiltwork.layers.compiled import compilable
from quiltwork.layers.norm import rms_norm_torch
from quiltwork.layers.protocol import PAGE_TOKENS, PagedKV, Runs
from quiltwork.layers.rope import rotate

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


def _first_seen(position: int, window: int | None) -> int:
    """First token of the page that holds the first token seen from ``position``."""
    return 0 if window is None else max(0, position - window + 1) // PAGE_TOKENS * PAGE_TOKENS


def gather_pages(kv: PagedKV, sequence: int, tokens: int, first: int = 0) -> tuple[Tensor, Tensor]:
    """Keys and values of one sequence's tokens from ``first`` (where a page begins) to ``tokens``.

    Each (num_kv_heads, tokens - first, head_dim).
    """
    pages = kv.table[sequence, first // PAGE_TOKENS : -(-tokens // PAGE_TOKENS)].long().to(kv.pool.device)
    together = kv.pool[pages].permute(1, 2, 0, 3, 4).flatten(2, 3)
    return together[0, :, : tokens - first], together[1, :, : tokens - first]


def attend_run(q: Tensor, positions: Tensor, k: Tensor, v: Tensor, shape: HeadShape, scale: float) -> Tensor:
    """Attention of one run: q (n, num_heads, head_dim) over the given keys and values.

    positions : (n,) of the queries, counted from the first key. Returns (n, num_heads * head_dim).
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
        first = _first_seen(lengths[sequence] - (end - begin), shape.window)
        k, v = gather_pages(kv, sequence, lengths[sequence], first)
        out[begin:end] = attend_run(q[begin:end], runs.positions[begin:end] - first, k, v, shape, scale)
    return out


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
    if not in_bounds(positions, starts, table, pool.shape[0]):
        raise BadInputError("rows, positions and pages do not fit together", where="kv.table")
    none = np.empty((0, shape.head_dim), np.float32)
    cos, sin = (none, none) if angles is None else (angles[0].numpy(), angles[1].numpy())
    q_norm, k_norm = (none, none) if norms is None else (w.view(-1, shape.head_dim).numpy() for w in (norms.q, norms.k))
    place(rows, shape.num_heads, positions, starts, table, pool, cos, sin, q_norm, k_norm, np.float32(shape.eps))
    out = qkv.new_empty(runs.rows, heads_width)
    result = out.numpy().reshape(runs.rows, shape.num_heads, shape.head_dim)
    longest = runs.rows if runs.decode_only else long_run - 1
    attend(rows, positions, starts, table, pool, result, window=shape.window or 0, longest_run=longest, scale=scale)
    if not runs.decode_only:
        begins, lengths = runs.starts.tolist(), runs.lengths.tolist()
        for s, (begin, end) in enumerate(pairwise(begins)):
            if end - begin >= long_run:
                first = _first_seen(lengths[s] - (end - begin), shape.window)
                k, v = gather_pages(kv, s, lengths[s], first)
                q = heads[begin:end, : shape.num_heads]
                out[begin:end] = attend_run(q, runs.positions[begin:end] - first, k, v, shape, scale)
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
    Raises BadInputError where the pool has another shape, or rows, positions and pages do not fit together.
    """
    if kv.pool.shape[1:] != (2, shape.num_kv_heads, PAGE_TOKENS, shape.head_dim):
        wanted = ("pages", 2, shape.num_kv_heads, PAGE_TOKENS, shape.head_dim)
        raise BadInputError(f"has shape {tuple(kv.pool.shape)}, the block needs {wanted}", where="kv.pool")
    if compilable(qkv) and compilable(kv.pool) and kv.pool.is_contiguous():
        return _compiled(qkv, runs, kv, shape, angles, norms, scale, long_run)
    q = place_torch(qkv, runs, kv, shape, angles, norms)
    return attend_torch(q, runs, kv, shape, scale)
