"""Where dense transformers models have their feed-forward layers, and those as plain matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from quiltwork.core.errors import UnsupportedError
from quiltwork.moe.checkpoints.sparse_block import PostNormBlock, SparseBlock


@dataclass(frozen=True)
class FeedForward:
    """``down(act(gate) * up)`` where gated, else ``down(act(up))``, as it stands in a model."""

    up: Tensor
    """(H, D), or (2H, D) with the gate's half first."""
    down: Tensor
    """(D, H)."""
    up_bias: Tensor | None
    down_bias: Tensor | None
    gated: bool
    activation: str
    dropout: float
    """Of its output, while training."""
    replace: Callable[[SparseBlock], None]
    """Puts a sparse block into its place."""


def feed_forwards(model: Any) -> list[FeedForward]:
    """Those of a model, first layer first. Raises UnsupportedError for a family that is not known."""
    family = model.config.model_type
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UnsupportedError(f"{family!r} is no dense family that can be upcycled", where="model_type", hint=known)
    found = list(FAMILIES[family](model.base_model, model.config))
    if not found:
        raise UnsupportedError("no feed-forward layer was found", where=type(model).__name__)
    return found


def _llama(model: Any, config: Any) -> Iterator[FeedForward]:
    import torch

    for layer in model.layers:
        mlp = layer.mlp
        bias = None if mlp.up_proj.bias is None else torch.cat([mlp.gate_proj.bias, mlp.up_proj.bias])
        yield FeedForward(
            torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]), mlp.down_proj.weight, bias, mlp.down_proj.bias,
            True, config.hidden_act, 0.0, _setter(layer, "mlp"),
        )  # fmt: skip


def _gpt2(model: Any, config: Any) -> Iterator[FeedForward]:
    for layer in model.h:
        rise, fall = layer.mlp.c_fc, layer.mlp.c_proj  # transformers' Conv1D: matrices stand transposed
        yield FeedForward(
            rise.weight.T, fall.weight.T, rise.bias, fall.bias, False, config.activation_function, config.resid_pdrop,
            _setter(layer, "mlp"),
        )  # fmt: skip


def _bert(model: Any, config: Any) -> Iterator[FeedForward]:
    for layer in model.encoder.layer:
        rise, fall = layer.intermediate.dense, layer.output.dense
        yield FeedForward(
            rise.weight, fall.weight, rise.bias, fall.bias, False, config.hidden_act, config.hidden_dropout_prob,
            _bert_setter(layer),
        )  # fmt: skip


def _setter(layer: nn.Module, name: str) -> Callable[[SparseBlock], None]:
    return lambda block: setattr(layer, name, block)


def _bert_setter(layer: Any) -> Callable[[SparseBlock], None]:
    def put(block: SparseBlock) -> None:
        layer.output = PostNormBlock(block, layer.output.LayerNorm)
        layer.intermediate = nn.Identity()
        layer.chunk_size_feed_forward = 0  # chunks of a sequence would not fit the batch's mask

    return put


FAMILIES: Mapping[str, Callable[[Any, Any], Iterator[FeedForward]]] = {
    "llama": _llama,
    "mistral": _llama,
    "qwen2": _llama,
    "qwen3": _llama,
    "gpt2": _gpt2,
    "bert": _bert,
    "roberta": _bert,
}
"""By ``model_type``."""
