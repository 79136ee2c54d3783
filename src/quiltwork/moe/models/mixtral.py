"""A decoder's weights under the names that Mixtral's checkpoints have."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from quiltwork.core.errors import UnsupportedError
from quiltwork.core.servable import Json
from quiltwork.moe.checkpoints.expert_names import split_experts
from quiltwork.moe.checkpoints.sparse_families import MIXTRAL
from quiltwork.moe.gates import TopK
from quiltwork.moe.layer import MoELayer
from quiltwork.moe.models.blocks import Block
from quiltwork.moe.models.decoder import Decoder
from quiltwork.moe.models.shape import ModelShape

_POSITIONS = 4096
"""Told as the longest text: RoPE knows no end."""


def mixtral_state(model: Decoder) -> tuple[dict[str, Tensor], dict[str, Json]]:
    """Tensors by their names in a checkpoint, and its ``config.json``.

    ``num_experts_per_tok`` is what the gate takes at most: a gate that takes fewer now and then is not said there.
    Raises UnsupportedError for a layer that has no experts, or a router that knows others.
    """
    found: dict[str, Tensor] = {
        "model.embed_tokens.weight": model.embed_tokens.weight,
        "model.norm.weight": model.norm.weight,
        "lm_head.weight": model.lm_head.weight,
    }
    most = 1
    for at, block in enumerate(model.layers):
        assert isinstance(block, Block)
        layer, start = block.ffn, f"model.layers.{at}"
        if not isinstance(layer, MoELayer) or len(layer.router) != layer.experts.count:
            raise UnsupportedError("Mixtral has experts in every layer, and no others", where=f"layers.{at}")
        for name, tensor in block.named_parameters():
            if not name.startswith("ffn."):
                found[f"{start}.{name}"] = tensor
        inside = f"{start}.{MIXTRAL.folder}"
        found[f"{inside}.gate.weight"] = layer.router
        found |= {f"{inside}.{name}": one for name, one in split_experts(layer.experts, MIXTRAL).items()}
        most = max(most, _most(layer, model.shape.active))
    return {name: one.detach().clone() for name, one in found.items()}, _config(model, most)


def own_state(found: Mapping[str, Tensor], shape: ModelShape) -> dict[str, Tensor]:
    """The tensors of ``mixtral_state`` by the names that a ``Decoder`` has. Raises KeyError for one that is missing."""
    state = {name.removeprefix("model."): one for name, one in found.items() if MIXTRAL.folder not in name}
    for at in range(shape.layers):
        start, own = f"model.layers.{at}.{MIXTRAL.folder}", f"layers.{at}.ffn"
        gates, ups, downs = (
            [found[f"{start}.experts.{e}.{name}"] for e in range(shape.experts)]
            for name in (MIXTRAL.gate, MIXTRAL.up, MIXTRAL.down)
        )
        state[f"{own}.router"] = found[f"{start}.gate.weight"]
        state[f"{own}.experts.up"] = torch.stack([torch.cat(pair) for pair in zip(gates, ups, strict=True)])
        state[f"{own}.experts.down"] = torch.stack(downs)
    return state


def _most(layer: MoELayer, active: int) -> int:
    return layer.gate.k if isinstance(layer.gate, TopK) else min(active, layer.experts.count)


def _config(model: Decoder, most: int) -> dict[str, Json]:
    shape = model.shape
    return {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_width,
        "num_local_experts": shape.experts,
        "num_experts_per_tok": most,
        "hidden_act": "silu",
        "rms_norm_eps": shape.eps,
        "rope_theta": shape.theta,
        "max_position_embeddings": _POSITIONS,
        "tie_word_embeddings": False,
        "sliding_window": None,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": None,
        "torch_dtype": "float32",
    }
