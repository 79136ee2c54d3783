"""How large a model is, before there is one."""

from __future__ import annotations

from collections.abc import Sequence

from quiltwork.core.errors import BadInputError
from quiltwork.core.units import format_bytes
from quiltwork.moe.gate import Gate
from quiltwork.moe.models.build import CLASSIFY, TRANSLATE
from quiltwork.moe.models.shape import ModelShape

_LEARNING = 16
"""Bytes of a weight that is learnt: itself, its gradient, and AdamW's two moments, float32."""


def parameters_of(task: str, shape: ModelShape, gates: Sequence[Gate | None]) -> int:
    """Weights of the model that ``build_model`` makes."""
    width = shape.width
    head = shape.classes if task == CLASSIFY else shape.vocabulary
    attention = 2 * width * (width + shape.kv_heads * shape.head_width)
    crossed = len(gates) - len(gates) // 2 if task == TRANSLATE else 0
    total = (shape.vocabulary + head) * width + (len(gates) + crossed) * (attention + width)
    for gate in gates:
        networks = shape.active if gate is None else shape.experts
        router = 0 if gate is None else gate.width(shape.experts)
        total += width * (3 * networks * shape.inner + router + 1)
    return total + width * (2 if task == TRANSLATE else 1)  # norms behind the last layers


def require_memory(
    task: str, shape: ModelShape, gates: Sequence[Gate | None], tokens: int, memory: int, *, where: str
) -> None:
    """Raise BadInputError where a model that learns takes more than ``memory`` bytes.

    tokens : computed at once; what is counted of them is the least that has to be there for a backward. A system that
    promises more memory than there is ends this process, or another, when it is used.
    """
    count = parameters_of(task, shape, gates)
    if (weights := count * _LEARNING) > memory:
        what = f"{count:,} weights take {format_bytes(weights)} while it learns"
        hint = "a smaller width, inner, experts, layers or nulls"
    elif weights + (passed := tokens * _passed(task, shape)) > memory:
        what = f"{tokens:,} tokens at once take {format_bytes(passed)} at least while it learns"
        hint = "a smaller micro_batch or length"
    else:
        return
    raise BadInputError(f"{what}, and this machine has {format_bytes(memory)}", where=where, hint=hint)


def _passed(task: str, shape: ModelShape) -> int:
    """Bytes of a token that a backward needs: what enters and leaves attention and one expert, and its logits."""
    logits = 0 if task == CLASSIFY else shape.vocabulary
    return 4 * (shape.layers * (8 * shape.width + 3 * shape.inner) + logits)
