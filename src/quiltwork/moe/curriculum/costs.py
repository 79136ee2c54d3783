"""What a step on a sample is predicted to cost: floating-point operations, linear in the experts its tokens take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from quiltwork.layers.order import Ids
from quiltwork.moe.flops import expert_row_flops, forward_flops
from quiltwork.moe.models.build import Model
from quiltwork.moe.models.packed import Packed


@dataclass(frozen=True)
class CostModel:
    """cost_d = base_d + row * extra experts of d's tokens in all layers."""

    base: npt.NDArray[np.float64]
    """(n,): with one expert for each token; hangs on the sample's lengths alone."""
    row: float
    """Of one token through one more expert."""

    def predict(self, extras: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """(n,). extras : (n, L)."""
        predicted: npt.NDArray[np.float64] = self.base + self.row * np.asarray(extras, np.float64).sum(1)
        return predicted


def cost_model(model: Model, lengths: Sequence[Ids], tokens: Ids) -> CostModel:
    """Operations of a forward. lengths : (n,) for each side of a sample. tokens : (n, L), of each layer of experts."""
    sides = np.stack(list(lengths), 1)
    unique, first, which = np.unique(sides, axis=0, return_index=True, return_inverse=True)
    base = [
        forward_flops(model, [Packed(torch.tensor([int(n)])) for n in row], tokens[at].tolist() or None).total
        for row, at in zip(unique, first, strict=True)
    ]
    return CostModel(np.array(base, np.float64)[which.reshape(-1)], float(expert_row_flops(model.shape)))
