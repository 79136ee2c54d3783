"""What stands between an expert's two matrices, forward and backward, with the gate's weight folded in.

The kernel never keeps what an expert puts out: with back = g @ down, where g is the gradient of the layer's output, a
weight's gradient is <back, hidden>, and weight * hidden is all that the gradient of ``down`` still needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from quiltwork.core.errors import UnsupportedError
from quiltwork.layers.activation import ACTIVATIONS
from quiltwork.layers.compiled import exp32, kernel


class Nonlinearity(Protocol):
    """``act(raised)``, or ``act(gate) * up`` of the halves of ``raised`` where gated. Arguments as in ``rows.Rows``."""

    def forward(self, raised: Any, hidden: Any) -> None:
        """Writes hidden (n, H). raised : (n, H or 2H), may be written over."""
        ...

    def backward(self, raised: Any, back: Any, weight: Any, d_raised: Any, d_weight: Any) -> None:
        """The gradients behind ``forward``.

        raised : (n, H or 2H). back : (n, H), g @ down; weight * hidden is written over it. weight : (n,). Writes the
        gradients of raised (n, H or 2H) and of the weight (n,).
        """
        ...


def nonlinearity(name: str, gated: bool, *, compiled: bool) -> Nonlinearity:
    """The one to use; compiled where asked and there is one. Raises UnsupportedError naming those that are known."""
    if name not in _DERIVED:
        known = ", ".join(_DERIVED)
        raise UnsupportedError(f"{name!r} is not implemented", where="activation", hint=f"known: {known}")
    if not compiled:
        return _Torch(name, gated)
    return _COMPILED[name, gated] if (name, gated) in _COMPILED else _Viewed(_Torch(name, gated))


_aten = torch.ops.aten
_DERIVED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "silu": lambda grad, x: _aten.silu_backward(grad, x),
    "gelu": lambda grad, x: _aten.gelu_backward(grad, x),
    "gelu_new": lambda grad, x: _aten.gelu_backward(grad, x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda grad, x: _aten.gelu_backward(grad, x, approximate="tanh"),
    "relu": lambda grad, x: _aten.threshold_backward(grad, x, 0),
}
"""By name: the gradient of x from that of act(x)."""


class _Torch:
    def __init__(self, name: str, gated: bool) -> None:
        self.act, self.derived, self.gated = ACTIVATIONS[name], _DERIVED[name], gated

    def forward(self, raised: Tensor, hidden: Tensor) -> None:
        if self.gated:
            gate, up = raised.chunk(2, -1)
            torch.mul(self.act(gate), up, out=hidden)
        else:
            hidden.copy_(self.act(raised))

    def backward(self, raised: Tensor, back: Tensor, weight: Tensor, d_raised: Tensor, d_weight: Tensor) -> None:
        scale = weight.to(raised.dtype)[:, None]
        scaled = back * scale
        if self.gated:
            gate, up = raised.chunk(2, -1)
            acted = self.act(gate)
            hidden = acted * up
            d_gate, d_up = d_raised.chunk(2, -1)
            d_gate.copy_(self.derived(scaled * up, gate))
            torch.mul(scaled, acted, out=d_up)
        else:
            hidden = self.act(raised)
            d_raised.copy_(self.derived(scaled, raised))
        d_weight.copy_((back.to(d_weight.dtype) * hidden.to(d_weight.dtype)).sum(-1))
        torch.mul(hidden, scale, out=back)


class _Viewed:
    """Torch's functions on NumPy views."""

    def __init__(self, inner: _Torch) -> None:
        self.inner = inner

    def forward(self, raised: Any, hidden: Any) -> None:
        self.inner.forward(torch.from_numpy(raised), torch.from_numpy(hidden))

    def backward(self, raised: Any, back: Any, weight: Any, d_raised: Any, d_weight: Any) -> None:
        self.inner.backward(*(torch.from_numpy(array) for array in (raised, back, weight, d_raised, d_weight)))


@kernel()
def _relu(raised, hidden):  # type: ignore[no-untyped-def]
    rows, width = hidden.shape
    for i in range(rows):
        r, h = raised[i], hidden[i]
        for j in range(width):
            h[j] = max(r[j], np.float32(0))


@kernel()
def _relu_backward(raised, back, weight, d_raised, d_weight):  # type: ignore[no-untyped-def]
    rows, width = back.shape
    for i in range(rows):
        r, b, d, w = raised[i], back[i], d_raised[i], weight[i]
        total = np.float32(0)
        for j in range(width):
            hidden, p = max(r[j], np.float32(0)), b[j]
            total += hidden * p
            d[j] = w * p if r[j] > 0 else np.float32(0)
            b[j] = w * hidden
        d_weight[i] = total


@kernel()
def _silu_gated(raised, hidden):  # type: ignore[no-untyped-def]
    rows, width = hidden.shape
    for i in range(rows):
        r, h = raised[i], hidden[i]
        for j in range(width):
            h[j] = r[j] / (np.float32(1) + exp32(-r[j])) * r[j + width]


@kernel()
def _silu_gated_backward(raised, back, weight, d_raised, d_weight):  # type: ignore[no-untyped-def]
    rows, width = back.shape
    for i in range(rows):
        r, b, d, w = raised[i], back[i], d_raised[i], weight[i]
        total = np.float32(0)
        for j in range(width):
            gate, up, p = r[j], r[j + width], b[j]
            sigmoid = np.float32(1) / (np.float32(1) + exp32(-gate))
            acted = gate * sigmoid
            hidden = acted * up
            total += hidden * p
            d[j] = w * p * up * sigmoid * (np.float32(1) + gate - acted)
            d[j + width] = w * p * acted
            b[j] = w * hidden
        d_weight[i] = total


class _Compiled:
    def __init__(self, forward: Callable[..., None], backward: Callable[..., None]) -> None:
        self.forward, self.backward = forward, backward


_COMPILED: dict[tuple[str, bool], Nonlinearity] = {
    ("relu", False): _Compiled(_relu, _relu_backward),
    ("silu", True): _Compiled(_silu_gated, _silu_gated_backward),
}
