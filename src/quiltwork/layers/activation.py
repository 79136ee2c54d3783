"""The non-linearities of feed-forward blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from quiltwork.core.errors import UnsupportedError
from quiltwork.layers.compiled import compilable, exp32, kernel


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": F.relu,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function called ``name``. Raises UnsupportedError naming the ones there are."""
    if name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UnsupportedError(f"{name!r} is not implemented", where="activation", hint=f"known: {known}")
    return ACTIVATIONS[name]


@kernel()
def _silu_gate(gate_up, out):  # type: ignore[no-untyped-def]
    rows, width = out.shape
    for i in range(rows):
        both, result = gate_up[i], out[i]
        for j in range(width):
            gate = both[j]
            result[j] = gate / (np.float32(1) + exp32(-gate)) * both[j + width]


def gated(name: str, gate_up: Tensor) -> Tensor:
    """``act(gate) * up`` of contiguous (rows, 2 * width) with the gate's half first -> (rows, width)."""
    width = gate_up.shape[1] // 2
    if name != "silu" or not compilable(gate_up):
        return activation(name)(gate_up[:, :width]) * gate_up[:, width:]
    out = gate_up.new_empty(gate_up.shape[0], width)
    _silu_gate(gate_up.numpy(), out.numpy())
    return out
