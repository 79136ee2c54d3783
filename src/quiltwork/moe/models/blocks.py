"""The blocks that all models are made of: Mixtral's attention, norms and experts, without biases."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from quiltwork.layers.rope import RopeTable, rotate
from quiltwork.moe.experts import Experts
from quiltwork.moe.gate import Gate
from quiltwork.moe.layer import MoELayer
from quiltwork.moe.models.outcome import Routed
from quiltwork.moe.models.packed import Packed
from quiltwork.moe.models.shape import ModelShape
from quiltwork.moe.routing import Routing

Angles = tuple[Tensor, Tensor]
"""Cosines and sines of tokens' positions, (T, head_width / 2) each."""


class Attention(nn.Module):
    """Of queries over keys that may be another run's; key heads may be shared by several query heads."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        narrow = shape.kv_heads * shape.head_width
        self.q_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.k_proj = nn.Linear(shape.width, narrow, bias=False)
        self.v_proj = nn.Linear(shape.width, narrow, bias=False)
        self.o_proj = nn.Linear(shape.width, shape.width, bias=False)
        self._head = shape.head_width

    def forward(
        self, x: Tensor, packed: Packed, *, angles: Angles | None, causal: bool, over: tuple[Tensor, Packed] | None
    ) -> Tensor:
        """x : (T, D) -> (T, D). over : what is looked at, if not x itself."""
        source, source_packed = (x, packed) if over is None else over
        q = self.queries(x)
        q = q if angles is None else rotate(q, *angles)
        k, v = self.keys_and_values(source, angles)
        q, k, v = packed.padded(q), source_packed.padded(k), source_packed.padded(v)
        # What is padded stands behind every token: a causal mask hides it without one of its own.
        mask = None if causal else source_packed.keys
        seen = scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, is_causal=causal
        )
        out: Tensor = self.o_proj(packed.flat(seen.transpose(1, 2)).flatten(1))
        return out

    def queries(self, x: Tensor) -> Tensor:
        """(T, D) -> (T, heads, head_width), not rotated."""
        q: Tensor = self.q_proj(x)
        return q.view(*q.shape[:-1], -1, self._head)

    def keys_and_values(self, x: Tensor, angles: Angles | None = None) -> tuple[Tensor, Tensor]:
        """(T, D) -> (T, heads, head_width) twice; those that heads share are there for each of them."""
        k, v = (of(x).view(*x.shape[:-1], -1, self._head) for of in (self.k_proj, self.v_proj))
        k = k if angles is None else rotate(k, *angles)
        if (shared := self.q_proj.out_features // self.k_proj.out_features) > 1:
            k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
        return k, v


class DenseFFN(nn.Module):
    """SwiGLU: ``down(silu(gate) * up)``."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.empty(2 * inner, width))
        self.down = nn.Parameter(torch.empty(width, inner))

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """x : (T, D) -> (T, D), and that nothing was routed."""
        gate, up = linear(x, self.up).chunk(2, -1)
        return linear(silu(gate) * up, self.down), None


class Block(nn.Module):
    """Attention, in a translator's decoder attention over the source too, and a feed-forward layer of experts."""

    def __init__(self, shape: ModelShape, gate: Gate | None, *, crossed: bool = False) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.width, shape.eps)
        self.self_attn = Attention(shape)
        self.cross_layernorm = nn.RMSNorm(shape.width, shape.eps) if crossed else None
        self.cross_attn = Attention(shape) if crossed else None
        self.post_attention_layernorm = nn.RMSNorm(shape.width, shape.eps)
        self.ffn: nn.Module
        if gate is None:
            self.ffn = DenseFFN(shape.width, shape.active * shape.inner)
        else:
            experts = Experts(shape.experts, shape.width, shape.inner, gated=True, activation="silu")
            self.ffn = MoELayer(experts, gate)

    def forward(
        self, x: Tensor, packed: Packed, *, angles: Angles, causal: bool, over: tuple[Tensor, Packed] | None = None
    ) -> tuple[Tensor, Routing | None]:
        """x : (T, D) -> (T, D), and how its tokens were routed."""
        x = x + self.self_attn(self.input_layernorm(x), packed, angles=angles, causal=causal, over=None)
        if self.cross_attn is not None and self.cross_layernorm is not None:
            x = x + self.cross_attn(self.cross_layernorm(x), packed, angles=None, causal=False, over=over)
        y, routing = self.ffn(self.post_attention_layernorm(x))
        return x + y, routing


class Blocks(nn.ModuleList):
    """One after the other."""

    def forward(
        self, x: Tensor, packed: Packed, *, angles: Angles, causal: bool, over: tuple[Tensor, Packed] | None = None
    ) -> tuple[Tensor, tuple[Routed, ...]]:
        """x : (T, D) -> (T, D), and how each of them that has experts routed the tokens."""
        routed = list[Routed]()
        for block in self:
            x, routing = block(x, packed, angles=angles, causal=causal, over=over)
            routed += [] if routing is None else [Routed(routing, packed)]
        return x, tuple(routed)


class Angled:
    """The angles of a shape's heads at tokens' positions."""

    def __init__(self, shape: ModelShape) -> None:
        self._theta, self._head = shape.theta, shape.head_width
        self._table: RopeTable | None = None
        self._device: torch.device | None = None

    def __call__(self, packed: Packed) -> Angles:
        """Of every token of a run."""
        device = packed.lengths.device
        if self._table is None or self._device != device:
            self._table = RopeTable({"type": "default", "theta": self._theta}, self._head, device)
            self._device = device
        cosines, sines = self._table.upto(packed.longest)
        return cosines[packed.position], sines[packed.position]
