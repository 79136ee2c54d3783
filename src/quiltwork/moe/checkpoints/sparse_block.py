"""A mixture-of-experts layer in the place of a transformers model's feed-forward layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.moe.checkpoints.padding import Padding
from quiltwork.moe.gate import Gate
from quiltwork.moe.layer import MoELayer
from quiltwork.moe.routing import Routing


class SparseBlock(nn.Module):
    """Batches (B, S, D) through a layer of tokens (T, D). Padding passes no expert: there the output is 0.

    index : which layer of the model. weights : what kind of weights the experts were trained with (``WEIGHTS``).
    """

    def __init__(self, layer: MoELayer, index: int, padding: Padding, *, weights: str, dropout: float = 0.0) -> None:
        super().__init__()
        self.layer, self.index, self.padding, self.weights = layer, index, padding, weights
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x : (B, S, D) or (T, D) -> the same shape."""
        flat = x.reshape(-1, x.shape[-1])
        tokens = self.padding.tokens(x)
        if tokens is None:
            y: Tensor = self.layer(flat)[0]
        else:
            y = torch.zeros_like(flat).index_copy(0, tokens, self.layer(flat[tokens])[0])
        done: Tensor = self.dropout(y.view_as(x))
        return done


class PostNormBlock(nn.Module):
    """BERT's feed-forward layer with its residual: ``norm(block(x) + x)``. Stands where BERT has its ``output``."""

    def __init__(self, block: SparseBlock, norm: nn.Module) -> None:
        super().__init__()
        self.block, self.LayerNorm = block, norm

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        """hidden : (B, S, D), what the attention gave; it is ``residual`` as well."""
        normed: Tensor = self.LayerNorm(self.block(hidden) + residual)
        return normed


def sparse_blocks(model: nn.Module) -> dict[int, SparseBlock]:
    """The sparse blocks of a model by the index of their layer. Raises BadInputError where there are none."""
    found = {module.index: module for module in model.modules() if isinstance(module, SparseBlock)}
    if not found:
        raise BadInputError("has no mixture-of-experts layer", where=type(model).__name__, hint="upcycle or adopt it")
    return dict(sorted(found.items()))


def set_gates(model: nn.Module, gate: Gate | Mapping[int, Gate], *, weights: str | None = None) -> None:
    """Have all layers, or those that are named, decide by another gate from the next batch on.

    weights : the kind of the experts' weights; the one that the model was trained with where None. A gate that knows
    only one kind keeps it. Raises BadInputError for a layer that is not there, UnsupportedError for a gate that reads
    more logits than the routers give.
    """
    blocks = sparse_blocks(model)
    gates = gate if isinstance(gate, Mapping) else dict.fromkeys(blocks, gate)
    if unknown := sorted(set(gates) - set(blocks)):
        raise BadInputError(f"is no sparse layer; they are {list(blocks)}", where=f"layer {unknown[0]}")
    fitted = {index: weighted(one, weights or blocks[index].weights) for index, one in gates.items()}
    for index, one in fitted.items():
        check_gate(one, blocks[index].layer.experts.count, blocks[index].layer.router.shape[0])
    for index, one in fitted.items():
        blocks[index].layer.gate = one


def restore_gates(model: nn.Module, gates: Mapping[int, Gate], *, weights: str | None = None) -> None:
    """Gates that were saved with a model, whose kind of weights is from now on the one that it was trained with.

    Raises what ``set_gates`` raises.
    """
    for index, block in sparse_blocks(model).items():
        block.weights = getattr(gates.get(index), "weights", block.weights)
    set_gates(model, gates, weights=weights)


def weighted(gate: Gate, kind: str) -> Gate:
    """The gate with this kind of weights, if it has the choice."""
    held: Any = gate
    if not any(field.name == "weights" for field in dataclasses.fields(held)):
        return gate
    changed: Gate = dataclasses.replace(held, weights=kind)
    return changed


def check_gate(gate: Gate, experts: int, logits: int) -> None:
    """Raise UnsupportedError where a gate over so many experts does not read so many logits."""
    if (reads := gate.width(experts)) != logits:
        kind = type(gate).__name__
        raise UnsupportedError(f"reads {reads} logits, and the router was trained for {logits}", where=f"gate {kind}")


@contextmanager
def record_routing(model: nn.Module) -> Iterator[dict[int, list[Routing]]]:
    """How every batch within is routed, by layer; a routing has the gradient of its probabilities.

    Padding is not in a routing: its tokens are those of the batch, row after row.
    """
    blocks = sparse_blocks(model)
    routings: dict[int, list[Routing]] = {index: [] for index in blocks}

    def keep(index: int) -> Any:
        return lambda module, args, output: routings[index].append(output[1])

    hooks = [block.layer.register_forward_hook(keep(index)) for index, block in blocks.items()]
    try:
        yield routings
    finally:
        for hook in hooks:
            hook.remove()
