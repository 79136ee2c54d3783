"""``x + o(attention(q, k, v of norm(x)))`` over paged keys and values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from quiltwork.core.errors import BadInputError
from quiltwork.layers.arch import choice, count, known_keys, weight
from quiltwork.layers.attachments import PartShape
from quiltwork.layers.attention import HeadNorms, HeadShape, attend_paged
from quiltwork.layers.block import AttachablePart, batch_of
from quiltwork.layers.norm import Norm, load_norm, rms_norm_torch
from quiltwork.layers.projection import Projection, load_projection
from quiltwork.layers.protocol import PAGE_TOKENS, Executor, Gathered, PagedKV, Placement, Runs, Weights
from quiltwork.layers.rope import RopeTable

_KEYS = frozenset(
    {"hidden_size", "num_heads", "num_kv_heads", "head_dim", "norm", "norm_eps", "rope", "qk_norm", "sliding_window"}
    | {"layout", "bias"}
)


class AttentionExecutor(AttachablePart):
    """(rows, d) -> (rows, d); writes the rows' keys and values to their pages."""

    def __init__(
        self,
        norm: Norm,
        qkv: Projection,
        o: Projection,
        heads: HeadShape,
        head_norms: HeadNorms | None,
        rope: RopeTable | None,
        placement: Placement,
        whole_norms: HeadNorms | None = None,
    ) -> None:
        norms = norm.roles
        for own in (head_norms, whole_norms):
            if own is not None:
                norms |= {"q_norm.weight": own.q, "k_norm.weight": own.k}
        super().__init__(PartShape((qkv, o), norms, placement, prefix=(heads.num_kv_heads, heads.head_dim)))
        self._norm, self._qkv, self._o, self._heads = norm, qkv, o, heads
        self._head_norms, self._whole_norms, self._rope = head_norms, whole_norms, rope
        self._scale = heads.head_dim**-0.5
        self.nbytes = qkv.nbytes + o.nbytes + sum(t.nbytes for t in norms.values())

    def __call__(self, x: Tensor, runs: Runs, kv: PagedKV | None = None, gathered: Gathered | None = None) -> Tensor:
        """See ``Executor``. Raises BadInputError without ``kv``."""
        if kv is None:
            raise BadInputError("attention needs pages to write keys and values to", where="kv")
        batch = batch_of(gathered)
        own = batch.projections if batch else {}
        norms = batch.norms if batch else {}
        head_norms = self._head_norms
        if head_norms is not None and norms:
            head_norms = HeadNorms(norms.get("q_norm.weight", head_norms.q), norms.get("k_norm.weight", head_norms.k))
        qkv = self._qkv(self._norm(x, norms), own.get("qkv"))
        if self._whole_norms is not None:
            self._norm_whole(qkv, norms)
        angles = None if self._rope is None else self._rope.upto(kv.table.shape[1] * PAGE_TOKENS)
        mixed = attend_paged(qkv, runs, kv, self._heads, angles, head_norms, self._scale)
        return self._o(mixed, own.get("o")).add_(x)

    def _norm_whole(self, qkv: Tensor, norms: Mapping[str, Tensor]) -> None:
        """Norm all queries of a row together, and all its keys, in place (OLMoE)."""
        assert self._whole_norms is not None
        q, kv = (count * self._heads.head_dim for count in (self._heads.num_heads, self._heads.num_kv_heads))
        for columns, role, own in (
            (qkv[:, :q], "q_norm.weight", self._whole_norms.q),
            (qkv[:, q : q + kv], "k_norm.weight", self._whole_norms.k),
        ):
            columns.copy_(rms_norm_torch(columns, norms.get(role, own), self._heads.eps))


def attention_executor(arch: Mapping[str, Any], weights: Weights, placement: Placement) -> Executor:
    """Load an ``attn`` block (see ``ExecutorFactory``)."""
    known_keys(arch, _KEYS)
    width, layout = count(arch, "hidden_size"), choice(arch, "layout", ("linear", "conv1d"))
    num_heads, num_kv_heads, head_dim = (count(arch, key) for key in ("num_heads", "num_kv_heads", "head_dim"))
    if num_heads % num_kv_heads:
        raise BadInputError(f"{num_heads} heads do not divide among {num_kv_heads}", where="arch.num_kv_heads")
    window = None if arch.get("sliding_window") is None else count(arch, "sliding_window")
    norm = load_norm(arch, weights)
    heads = HeadShape(num_heads, num_kv_heads, head_dim, window, norm.eps)
    q_width, kv_width = num_heads * head_dim, num_kv_heads * head_dim
    fused = {"qkv_proj": q_width + 2 * kv_width}
    apart = {"q_proj": q_width, "k_proj": kv_width, "v_proj": kv_width}
    head_norms = whole_norms = None
    if arch.get("qk_norm") == "width":
        whole_norms = HeadNorms(weight(weights, "q_norm.weight", q_width), weight(weights, "k_norm.weight", kv_width))
    elif arch.get("qk_norm"):
        head_norms = HeadNorms(*(weight(weights, f"{name}_norm.weight", head_dim) for name in ("q", "k")))
    rope, table = arch.get("rope"), None
    if rope is not None:
        key = ("rope", json.dumps(rope, sort_keys=True), str(head_dim), str(placement.device))
        table = weights.prepared(key, (), lambda: RopeTable(rope, head_dim, placement.device))
    return AttentionExecutor(
        norm,
        load_projection("qkv", weights, layout, (fused, apart), width),
        load_projection("o", weights, layout, ({"o_proj": width},), q_width),
        heads,
        head_norms,
        table,
        placement,
        whole_norms,
    )
