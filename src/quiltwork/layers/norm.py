"""Root-mean-square and layer norm over the last axis, with one weight for all rows or one per row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quiltwork.layers.arch import choice, count, number
from quiltwork.layers.arch import weight as role_tensor
from quiltwork.layers.compiled import compilable, kernel
from quiltwork.layers.protocol import Weights


def rms_norm_torch(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x / sqrt(mean(x²) + eps) * weight`` computed in float32; x (rows, d), weight (d,) or (rows, d)."""
    wide = x.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)


@kernel()
def _rms_norm(x, weight, eps, out):  # type: ignore[no-untyped-def]
    rows, width = x.shape
    for i in range(rows):
        own = weight[i] if weight.shape[0] > 1 else weight[0]
        row, result = x[i], out[i]
        total = np.float32(0)
        for j in range(width):
            total += row[j] * row[j]
        scale = np.float32(1) / np.sqrt(total / np.float32(width) + eps)
        for j in range(width):
            result[j] = row[j] * scale * own[j]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``rms_norm_torch``, in one pass where x is float32 on a CPU; x is contiguous."""
    if not compilable(x):
        return rms_norm_torch(x, weight, eps)
    out = torch.empty_like(x)
    _rms_norm(x.numpy(), weight.view(-1, x.shape[1]).numpy(), np.float32(eps), out.numpy())
    return out


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Layer norm; x (rows, d), weight and bias (d,) or (rows, d)."""
    if weight.dim() == 1 and (bias is None or bias.dim() == 1):
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    normed = F.layer_norm(x, x.shape[-1:], None, None, eps) * weight
    return normed if bias is None else normed + bias


@dataclass(frozen=True)
class Norm:
    """The norm a block starts with, as its ``arch`` describes it."""

    weight: Tensor
    bias: Tensor | None
    eps: float
    kind: str

    @property
    def roles(self) -> dict[str, Tensor]:
        """Role -> values, for attachments to replace."""
        return {"norm.weight": self.weight} | ({} if self.bias is None else {"norm.bias": self.bias})

    @property
    def nbytes(self) -> int:
        """Bytes of weight and bias."""
        return self.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def __call__(self, x: Tensor, replaced: Mapping[str, Tensor] | None = None) -> Tensor:
        """Contiguous (rows, d) -> (rows, d); ``replaced`` has a (rows, d) for each role that some sequence changed."""
        weight, bias = self.weight, self.bias
        if replaced:
            weight = replaced.get("norm.weight", weight)
            bias = None if bias is None else replaced.get("norm.bias", bias)
        return rms_norm(x, weight, self.eps) if self.kind == "rms" else layer_norm(x, weight, bias, self.eps)


def load_norm(arch: Mapping[str, Any], weights: Weights) -> Norm:
    """The block's ``norm``. Raises UnsupportedError for another kind than ``rms`` and ``layer``."""
    kind, width = choice(arch, "norm", ("rms", "layer")), count(arch, "hidden_size")
    bias = None
    if kind == "layer" and weights.get("norm.bias") is not None:
        bias = role_tensor(weights, "norm.bias", width)
    return Norm(role_tensor(weights, "norm.weight", width), bias, number(arch, "norm_eps"), kind)
