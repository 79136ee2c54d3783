"""Upcycling: a dense model's feed-forward layers copied into experts (Komatsuzaki et al. 2023)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from quiltwork.core.errors import BadInputError
from quiltwork.core.memory import physical_bytes
from quiltwork.core.units import format_bytes
from quiltwork.layers.activation import activation
from quiltwork.moe.checkpoints.dense_families import FeedForward, feed_forwards
from quiltwork.moe.checkpoints.padding import Padding
from quiltwork.moe.checkpoints.sparse_block import SparseBlock
from quiltwork.moe.experts import Experts
from quiltwork.moe.gate import Gate
from quiltwork.moe.gates import Adaptive
from quiltwork.moe.layer import MoELayer

ROUTER_STD = 0.02
"""Standard deviation of a fresh router's weights: small, and no two experts alike."""
_MOST_EXPERTS = 4096
_MOST_SEED = (1 << 63) - 1


def upcycle(
    model: Any | str | os.PathLike[str],
    experts: int = 8,
    gate: Gate | None = None,
    seed: int = 0,
    *,
    layers: Iterable[int] | None = None,
    noise: float = 0.0,
) -> Any:
    """Make a dense transformers model sparse: each feed-forward layer becomes ``experts`` copies behind a router.

    With a gate whose weights sum to 1 the outputs stay what they were; with raw weights (equation 3 of the paper) they
    do not: the copies' outputs are scaled by the softmax values, whose sum is below 1.

    Parameters
    ----------
    model : a model of the families llama, mistral, qwen2, qwen3, gpt2, bert or roberta, which is changed; or the folder
        of a checkpoint.
    gate : Adaptive() where None.
    seed : of the routers, and of the noise.
    layers : indices of the layers to make sparse; all where None.
    noise : standard deviation of what is added to each weight of the experts, as a share of that matrix's own. Above 0
        the outputs change.

    Returns the model, its sparse layers as ``SparseBlock``.

    Raises UnsupportedError for another family or activation, BadInputError for a number that makes no sense.
    """
    if isinstance(model, str | os.PathLike):
        from quiltwork.moe.checkpoints.transformers_folder import read_model

        model = read_model(model)
    gate = gate or Adaptive()
    if not 1 <= experts <= _MOST_EXPERTS:
        raise BadInputError(f"must be 1 to {_MOST_EXPERTS}, not {experts}", where="experts")
    if not 0 <= noise <= 1:
        raise BadInputError(f"must be 0 to 1, not {noise}", where="noise")
    if not 0 <= seed <= _MOST_SEED:
        raise BadInputError(f"{seed} is not from 0 to {_MOST_SEED}", where="seed")
    gate.width(experts)
    found = feed_forwards(model)
    activation(found[0].activation)
    chosen = range(len(found)) if layers is None else sorted(set(layers))
    if not chosen or not all(0 <= index < len(found) for index in chosen):
        raise BadInputError(f"must be some of 0 to {len(found) - 1}", where="layers")
    _require_memory([found[index] for index in chosen], experts)
    generator = torch.Generator().manual_seed(seed)
    padding = Padding()
    for index in chosen:
        layer = _copied(found[index], experts, gate, noise, generator)
        weights = getattr(gate, "weights", "sum_to_one")
        block = SparseBlock(layer, index, padding, weights=weights, dropout=found[index].dropout)
        found[index].replace(block.train(model.training))
    padding.watch(model)
    return model


def _require_memory(found: list[FeedForward], experts: int) -> None:
    memory = physical_bytes()
    asked = sum(one.nbytes for each in found for one in (each.up, each.down)) * experts
    if asked > memory:
        what = f"{experts} are {format_bytes(asked)} of copies, and this machine has {format_bytes(memory)}"
        raise BadInputError(what, where="experts")


def _copied(dense: FeedForward, count: int, gate: Gate, noise: float, generator: torch.Generator) -> MoELayer:
    inner, width = dense.down.shape[1], dense.down.shape[0]
    bias = dense.up_bias is not None
    with torch.device("meta"):
        experts = Experts(count, width, inner, gated=dense.gated, activation=dense.activation, bias=bias)
    layer = MoELayer(experts, gate)
    router = torch.randn(layer.router.shape, generator=generator) * ROUTER_STD
    layer.router = torch.nn.Parameter(router.to(dense.up))
    for name in ("up", "down", "up_bias", "down_bias"):
        matrix: Tensor | None = getattr(dense, name)
        if matrix is not None:
            setattr(experts, name, torch.nn.Parameter(_copies(matrix.detach(), count, noise, generator)))
    return layer


def _copies(matrix: Tensor, count: int, noise: float, generator: torch.Generator) -> Tensor:
    copies = matrix.expand(count, *matrix.shape).clone(memory_format=torch.contiguous_format)
    if noise > 0 and matrix.numel() > 1:
        drawn = torch.randn(copies.shape, generator=generator).to(copies)
        copies += drawn * (noise * matrix.std())
    return copies
