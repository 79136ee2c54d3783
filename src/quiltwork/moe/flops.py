"""The floating-point operations of a step, counted exactly: two for each multiply-add of a matrix product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quiltwork.moe.models.build import Model
from quiltwork.moe.models.classifier import Classifier
from quiltwork.moe.models.packed import Packed
from quiltwork.moe.models.shape import ModelShape
from quiltwork.moe.models.translator import Translator

BACKWARD = 3
"""Forward and backward together cost three forwards: a product's backward is two products of its size."""


@dataclass(frozen=True)
class Flops:
    """Of a forward, by what they are for. Norms, activations and softmax are not counted: they are no products."""

    experts: int
    """Of rows that were routed, or of dense layers."""
    attention: int
    """Projections, and scores over the tokens that may be seen."""
    rest: int
    """Routers."""
    head: int

    @property
    def total(self) -> int:
        """Of all of it."""
        return self.experts + self.attention + self.rest + self.head

    @property
    def expert_share(self) -> float:
        """How much of all is the experts'."""
        return self.experts / self.total

    def __add__(self, other: Flops) -> Flops:
        return Flops(
            self.experts + other.experts,
            self.attention + other.attention,
            self.rest + other.rest,
            self.head + other.head,
        )


def expert_row_flops(shape: ModelShape) -> int:
    """Of one row through one expert: up, gate and down."""
    return 6 * shape.width * shape.inner


def forward_flops(model: Model, packed: Sequence[Packed], rows: Sequence[int] | None = None) -> Flops:
    """Of a forward over a batch.

    packed : where its tokens lie; of a translator the source's and the target's. rows : how many rows went through the
    experts of each layer; ``shape.active`` for each token where None (top-2 as a rule, and a dense layer that does as
    much).
    """
    shape, own = model.shape, packed[-1]
    if isinstance(model, Translator):
        source, half = packed[0], shape.layers // 2
        layers = [(source, False, None)] * half + [(own, True, source)] * half
    else:
        layers = [(own, not isinstance(model, Classifier), None)] * shape.layers
    taken = rows if rows is not None else [shape.active * len(one.sequence) for one, _, _ in layers]
    total = Flops(sum(taken) * expert_row_flops(shape), 0, 0, _head(model, own))
    for one, causal, over in layers:
        total += Flops(0, _attention(shape, one, causal, over), 2 * len(one.sequence) * shape.width * shape.experts, 0)
    return total


def _attention(shape: ModelShape, own: Packed, causal: bool, over: Packed | None) -> int:
    tokens = len(own.sequence)
    lengths: list[int] = own.lengths.tolist()
    seen = sum(n * (n + 1) // 2 if causal else n * n for n in lengths)
    total: int = _projected(shape, tokens, tokens) + 4 * seen * shape.width
    if over is not None:
        across = sum(n * m for n, m in zip(lengths, over.lengths.tolist(), strict=True))
        total += _projected(shape, tokens, len(over.sequence)) + 4 * across * shape.width
    return total


def _projected(shape: ModelShape, queries: int, keys: int) -> int:
    """q and o of the queries, k and v of the keys."""
    narrow = shape.kv_heads * shape.head_width
    return 4 * queries * shape.width * shape.width + 4 * keys * shape.width * narrow


def _head(model: Model, own: Packed) -> int:
    if isinstance(model, Classifier):
        return 2 * own.sequences * model.shape.width * model.shape.classes
    return 2 * len(own.sequence) * model.shape.width * model.shape.vocabulary
