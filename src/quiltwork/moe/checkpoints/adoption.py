"""Adoption: a Mixtral, Qwen-MoE or OLMoE model's sparse blocks run by our layer, on the very same weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from quiltwork.core.errors import BadInputError
from quiltwork.layers.activation import activation
from quiltwork.moe.checkpoints.padding import Padding
from quiltwork.moe.checkpoints.sparse_block import SparseBlock, set_gates
from quiltwork.moe.checkpoints.sparse_families import sparse_family, trained_weights
from quiltwork.moe.experts import Experts
from quiltwork.moe.gate import Gate
from quiltwork.moe.gates import TopK
from quiltwork.moe.layer import MoELayer


class GatedShared(nn.Module):
    """Qwen's shared expert: what every token takes, times a sigmoid of its own."""

    def __init__(self, expert: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.expert, self.gate = expert, gate

    def forward(self, x: Tensor) -> Tensor:
        """x : (T, D) -> (T, D)."""
        gated: Tensor = torch.sigmoid(self.gate(x)) * self.expert(x)
        return gated


def adopt(model: Any, gate: Gate | None = None, *, weights: str | None = None) -> Any:
    """Put our layer into the place of every sparse block; dense layers stay.

    The layer has the block's own parameters, so what trains one trains the other. transformers' jitter of the router's
    input is not taken over; neither is ``output_router_logits``, for which there is ``record_routing``.

    Parameters
    ----------
    model : a transformers model of the families mixtral, qwen2_moe, qwen3_moe or olmoe, which is changed.
    gate : the fixed number of experts that the model was trained with where None: the outputs stay what they were.
    weights : ``sum_to_one`` or ``raw``, whatever the gate says; as the model was trained where None.

    Returns the model. Raises UnsupportedError for another family or activation, or a gate with null experts.
    """
    config = model.config
    family = sparse_family(config)
    activation(config.hidden_act)
    trained = trained_weights(config)
    fixed = TopK(config.num_experts_per_tok, weights=trained)
    places = [
        (index, layer) for index, layer in enumerate(model.base_model.layers)
        if type(layer.mlp).__name__ == family.block
    ]  # fmt: skip
    if not places:
        raise BadInputError("has no sparse block", where=type(model).__name__)
    padding = Padding()
    for index, layer in places:
        made = _layer_of(layer.mlp, config.hidden_act, fixed)
        layer.mlp = SparseBlock(made, index, padding, weights=trained).train(model.training)
    config.output_router_logits = False
    padding.watch(model)
    if gate is not None:
        set_gates(model, gate, weights=weights)
    return model


def _layer_of(block: Any, act: str, gate: Gate) -> MoELayer:
    up, down = block.experts.gate_up_proj, block.experts.down_proj
    with torch.device("meta"):
        experts = Experts(down.shape[0], down.shape[1], down.shape[2], gated=True, activation=act)
    layer = MoELayer(experts, gate)
    experts.up, experts.down, layer.router = up, down, block.gate.weight
    if hasattr(block, "shared_expert"):
        layer.shared = GatedShared(block.shared_expert, block.shared_expert_gate)
    return layer
