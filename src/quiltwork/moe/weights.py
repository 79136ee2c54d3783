"""What the experts of a token are weighed by, and its gradient: compiled on a CPU, else by torch's operators."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from quiltwork.layers.compiled import compilable, kernel
from quiltwork.moe.gate import require_one_of

WEIGHTS = ("sum_to_one", "raw")
"""``sum_to_one``: a token's weights are divided by their sum; ``raw``: the softmax values as they are (equation 3)."""


def weights_of(probabilities: Tensor, experts: Tensor, chosen: Tensor, kind: str) -> Tensor:
    """The weights (T, K) of candidates ``experts`` (T, K) int64 of which ``chosen`` (T, K) are taken.

    probabilities : (T, W) float32. Where a single expert is taken its weight is R / stopgrad(R): one, but the router
    keeps its gradient. What is not taken has no weight to speak of. Raises BadInputError for an unknown ``kind``.
    """
    require_one_of(kind, WEIGHTS, "weights")
    if kind == "raw":
        return probabilities.gather(1, experts)
    if compilable(probabilities):
        return cast(Tensor, _SumToOne.apply(probabilities, experts, chosen))  # type: ignore[no-untyped-call]
    values = probabilities.gather(1, experts)
    total = torch.where(chosen, values, 0.0).sum(-1, keepdim=True)
    single = chosen.sum(-1, keepdim=True) == 1
    return values / torch.where(single, total.detach(), total).clamp_min(_LEAST)


_LEAST = torch.finfo(torch.float32).tiny


class _SumToOne(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, probabilities: Tensor, experts: Tensor, chosen: Tensor) -> Tensor:
        given, at, mask = (each.detach().contiguous() for each in (probabilities, experts, chosen))
        weights = given.new_empty(at.shape)
        _divide(given.numpy(), at.numpy(), mask.numpy(), weights.numpy())
        ctx.save_for_backward(given, at, mask, weights)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        given, at, mask, weights = ctx.saved_tensors
        d_probabilities = torch.zeros_like(given)
        arrays = (each.numpy() for each in (given, at, mask, weights, grad.contiguous(), d_probabilities))
        _divide_backward(*arrays)
        return d_probabilities, None, None


@kernel()
def _divide(probabilities, experts, chosen, weights):  # type: ignore[no-untyped-def]
    tokens, most = experts.shape
    for t in range(tokens):
        total = np.float32(0)
        for k in range(most):
            if chosen[t, k]:
                total += probabilities[t, experts[t, k]]
        total = max(total, np.float32(_LEAST))
        for k in range(most):
            weights[t, k] = probabilities[t, experts[t, k]] / total if chosen[t, k] else np.float32(0)


@kernel()
def _divide_backward(probabilities, experts, chosen, weights, grad, d_probabilities):  # type: ignore[no-untyped-def]
    tokens, most = experts.shape
    for t in range(tokens):
        total, pull, taken = np.float32(0), np.float32(0), 0
        for k in range(most):
            if chosen[t, k]:
                total += probabilities[t, experts[t, k]]
                pull += grad[t, k] * weights[t, k]
                taken += 1
        if taken == 1 or total < np.float32(_LEAST):  # the sum is then a constant
            pull = np.float32(0)
        total = max(total, np.float32(_LEAST))
        for k in range(most):
            if chosen[t, k]:
                d_probabilities[t, experts[t, k]] += (grad[t, k] - pull) / total
