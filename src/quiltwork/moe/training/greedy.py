"""Translating token by token, each time with the most probable one; what was computed of earlier tokens is kept."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from quiltwork.layers.rope import rotate
from quiltwork.moe.models.blocks import Angles, Attention, Block
from quiltwork.moe.models.packed import Packed
from quiltwork.moe.models.translator import Translator


@torch.no_grad()
def translate(model: Translator, ids: Tensor, packed: Packed, begin: int, end: int, longest: int) -> list[list[int]]:
    """ids : (S,) of n sources -> the tokens of their translations, without begin and end, ``longest`` at most."""
    states, _ = model.encode(ids, packed)
    caches = [_Cache(layer, states, packed) for layer in model.layers if isinstance(layer, Block)]
    device, count = ids.device, packed.sequences
    said: list[list[int]] = [[] for _ in range(count)]
    going = torch.arange(count, device=device)
    last = torch.full((count,), begin, device=device)
    cosines, sines = model.angled(Packed(torch.tensor([longest], device=device)))
    for step in range(longest):
        x = model.embed_tokens(last)
        for cache in caches:
            x = cache.step(x, (cosines[step : step + 1], sines[step : step + 1]))
        last = model.lm_head(model.norm(x)).argmax(-1)
        on = last != end
        for at, token in zip(going[on].tolist(), last[on].tolist(), strict=True):
            said[at].append(token)
        if not bool(on.any()):
            break
        if not bool(on.all()):
            going, last = going[on], last[on]
            for cache in caches:
                cache.keep(on)
    return said


class _Cache:
    """A layer of the decoder, and keys and values of what it has seen of n translations: (n, heads, tokens, width)."""

    def __init__(self, layer: Block, states: Tensor, packed: Packed) -> None:
        assert layer.cross_attn is not None
        assert layer.cross_layernorm is not None
        self._layer, self._cross, self._cross_norm = layer, layer.cross_attn, layer.cross_layernorm
        self._source = [packed.padded(one).transpose(1, 2) for one in self._cross.keys_and_values(states)]
        self._there = packed.keys
        self._seen: list[Tensor] | None = None

    def step(self, x: Tensor, angles: Angles) -> Tensor:
        """x : (n, D), the newest token of each."""
        layer = self._layer
        rows = (angles[0].expand(len(x), -1), angles[1].expand(len(x), -1))
        normed = layer.input_layernorm(x)
        key, value = layer.self_attn.keys_and_values(normed, rows)
        fresh = [key[:, :, None], value[:, :, None]]
        self._seen = (
            fresh if self._seen is None else [torch.cat(pair, 2) for pair in zip(self._seen, fresh, strict=True)]
        )
        x = x + _look(layer.self_attn, normed, rows, self._seen, None)
        x = x + _look(self._cross, self._cross_norm(x), None, self._source, self._there)
        y, _ = layer.ffn(layer.post_attention_layernorm(x))
        out: Tensor = x + y
        return out

    def keep(self, on: Tensor) -> None:
        """Forget the translations that have come to their end."""
        self._source = [one[on] for one in self._source]
        self._seen = None if self._seen is None else [one[on] for one in self._seen]
        self._there = None if self._there is None else self._there[on]


def _look(attention: Attention, x: Tensor, angles: Angles | None, over: list[Tensor], mask: Tensor | None) -> Tensor:
    q = attention.queries(x)
    q = q if angles is None else rotate(q, *angles)
    seen = scaled_dot_product_attention(q[:, :, None], over[0], over[1], attn_mask=mask)
    out: Tensor = attention.o_proj(seen.flatten(1))
    return out
