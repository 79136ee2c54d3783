"""The arithmetic of a chain's blocks in plain torch, for gradients; the executors of ``layers`` are for serving.

Tests hold the two to the same logits for every family.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from quiltwork.layers.activation import activation
from quiltwork.layers.norm import layer_norm, rms_norm_torch
from quiltwork.layers.rope import frequencies, rotate
from quiltwork.serving.stitching.chains import PlainLink


def run(links: Iterable[PlainLink], x: Tensor) -> Tensor:
    """Run links one after another on whole sequences that start at position 0.

    x : (batch, tokens) int64 ids where the first link is an embedding, else (batch, tokens, d) float32.
    Returns (batch, tokens, d) or, after a head, (batch, tokens, vocabulary).
    """
    for link in links:
        x = _RUN[link.kind](link, x)
    return x


def inner(link: PlainLink, x: Tensor) -> Tensor:
    """What the neurons of an ``ffn`` link put out, before ``down_proj``: (batch, tokens, intermediate)."""
    normed, act = _norm(link, x), activation(str(link.arch["activation"]))
    if link.arch["gated"]:
        return act(_project(link, "gate_proj", normed)) * _project(link, "up_proj", normed)
    return act(_project(link, "up_proj", normed))


def _embed(link: PlainLink, ids: Tensor) -> Tensor:
    x = F.embedding(ids, link.tensors["tokens.weight"])
    positions = link.tensors.get("positions.weight")
    return x if positions is None else x + positions[: ids.shape[1]]


def _attention(link: PlainLink, x: Tensor) -> Tensor:
    arch = link.arch
    heads, kv_heads, width = int(arch["num_heads"]), int(arch["num_kv_heads"]), int(arch["head_dim"])
    normed = _norm(link, x)
    if "qkv_proj.weight" in link.tensors:
        fused = _project(link, "qkv_proj", normed)
        q, k, v = torch.split(fused, [heads * width, kv_heads * width, kv_heads * width], dim=-1)
    else:
        q, k, v = (_project(link, role, normed) for role in ("q_proj", "k_proj", "v_proj"))
    batch, tokens = x.shape[:2]
    q, k, v = (t.reshape(batch * tokens, -1, width) for t in (q, k, v))
    if arch.get("qk_norm"):
        q = rms_norm_torch(q, link.tensors["q_norm.weight"], float(arch["norm_eps"]))
        k = rms_norm_torch(k, link.tensors["k_norm.weight"], float(arch["norm_eps"]))
    if arch.get("rope") is not None:
        cos, sin = _angles(json.dumps(arch["rope"], sort_keys=True), width, tokens, str(x.device))
        cos, sin = cos.repeat(batch, 1), sin.repeat(batch, 1)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    q, k, v = (t.view(batch, tokens, -1, width).transpose(1, 2) for t in (q, k, v))
    k, v = (t.repeat_interleave(heads // kv_heads, dim=1) for t in (k, v))
    window = arch.get("sliding_window")
    seen = None if window is None or int(window) >= tokens else _seen(tokens, int(window), x.device)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=seen is None)
    return x + _project(link, "o_proj", mixed.transpose(1, 2).reshape(batch, tokens, heads * width))


def _ffn(link: PlainLink, x: Tensor) -> Tensor:
    return x + _project(link, "down_proj", inner(link, x))


def _stitch(link: PlainLink, x: Tensor) -> Tensor:
    return _project(link, "linear", x)


def _head(link: PlainLink, x: Tensor) -> Tensor:
    return _project(link, "lm_head", _norm(link, x))


_RUN = {"embed": _embed, "attn": _attention, "ffn": _ffn, "stitch": _stitch, "head": _head}


def _norm(link: PlainLink, x: Tensor) -> Tensor:
    weight, eps = link.tensors["norm.weight"], float(link.arch["norm_eps"])
    if link.arch["norm"] == "rms":
        return rms_norm_torch(x, weight, eps)
    return layer_norm(x, weight, link.tensors.get("norm.bias"), eps)


def _project(link: PlainLink, role: str, x: Tensor) -> Tensor:
    weight, bias = link.tensors[f"{role}.weight"], link.tensors.get(f"{role}.bias")
    if link.arch.get("layout") == "conv1d" and role.endswith("_proj"):
        weight = weight.t()
    y = F.linear(x, weight, bias)
    update = link.low_rank.get(role)
    return y if update is None else y + F.linear(F.linear(x, update.down), update.up)


@cache
def _angles(rope: str, head_dim: int, tokens: int, device: str) -> tuple[Tensor, Tensor]:
    inverse, factor = frequencies(json.loads(rope), head_dim)
    angles = torch.outer(torch.arange(tokens, dtype=torch.float32), inverse)
    return (angles.cos() * factor).to(device), (angles.sin() * factor).to(device)


def _seen(tokens: int, window: int, device: torch.device) -> Tensor:
    at = torch.arange(tokens, device=device)
    distance = at[:, None] - at[None, :]
    return (distance >= 0) & (distance < window)
