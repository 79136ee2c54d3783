"""A gate decides which experts a token takes: a small pure function from the router's logits to a ``Routing``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from quiltwork.core.errors import BadInputError
from quiltwork.layers.compiled import compilable, kernel
from quiltwork.moe.routing import Routing


class Gate(Protocol):
    """Frozen: what is set about a gate is in its fields, and what is learnt is in the router."""

    def width(self, experts: int) -> int:
        """How many logits it reads for so many experts. Raises BadInputError where it cannot work with them."""
        ...

    def __call__(self, logits: Tensor) -> Routing:
        """logits : (T, width), any float dtype; computed with in float32. Raises BadInputError where not finite."""
        ...


def probabilities_of(logits: Tensor) -> Tensor:
    """The softmax (T, width) in float32. Raises BadInputError naming the first token whose logits are not finite."""
    logits = logits.float()
    if not math.isfinite(float(logits.detach().sum())):  # of finite numbers only if they overflow: then look closer
        finite = torch.isfinite(logits).all(-1)
        if not bool(finite.all()):
            token = int((~finite).nonzero()[0])
            raise BadInputError(f"the router's logits of token {token} are not finite", where="gate")
    return torch.softmax(logits, -1)


def first(probabilities: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` most probable of each token, of equals the lower index first: values, indices (T, count)."""
    if compilable(probabilities) and count * probabilities.shape[1] <= _SELECTED:
        indices = torch.empty(len(probabilities), count, dtype=torch.int64)
        _select(probabilities.detach().contiguous().numpy(), indices.numpy())
        return probabilities.gather(1, indices), indices
    values, indices = torch.sort(probabilities, dim=-1, descending=True, stable=True)
    return values[:, :count], indices[:, :count]


_SELECTED = 1024
"""Up to so many comparisons per token, looking for one maximum after another is quicker than sorting."""


@kernel()
def _select(probabilities, indices):  # type: ignore[no-untyped-def]
    tokens, count = indices.shape
    taken = np.zeros(probabilities.shape[1], np.bool_)
    for t in range(tokens):
        taken[:] = False
        for place in range(count):
            best, highest = 0, np.float32(-1)
            for e in range(len(taken)):
                if not taken[e] and probabilities[t, e] > highest:
                    best, highest = e, probabilities[t, e]
            taken[best] = True
            indices[t, place] = best


WEIGHTS = ("sum_to_one", "raw")
"""``sum_to_one``: a token's weights are divided by their sum; ``raw``: the softmax values as they are (equation 3)."""


def weights_of(values: Tensor, chosen: Tensor, kind: str) -> Tensor:
    """The weights (T, K) of candidates with softmax ``values`` (T, K), of which ``chosen`` (T, K) are taken.

    Where a single expert is taken its weight is R / stopgrad(R): one, but the router keeps its gradient.
    """
    require_one_of(kind, WEIGHTS, "weights")
    if kind == "raw":
        return values
    total = torch.where(chosen, values, 0.0).sum(-1, keepdim=True)
    single = chosen.sum(-1, keepdim=True) == 1
    return values / torch.where(single, total.detach(), total).clamp_min(torch.finfo(torch.float32).tiny)


def require_one_of(name: str, known: Sequence[str], where: str) -> None:
    """Raises BadInputError naming what is known."""
    if name not in known:
        raise BadInputError(f"{name!r} is not one of {', '.join(known)}", where=where)


def per_token(value: float | Tensor, logits: Tensor, where: str) -> Tensor:
    """A setting that is one number or one for each of the T tokens, as (1, 1) or (T, 1) on the logits' device.

    Raises BadInputError where it is NaN or has another shape.
    """
    found = torch.as_tensor(value, device=logits.device)
    if found.dim() > 1 or (found.numel() not in (1, len(logits)) and found.dim() == 1):
        shape = tuple(found.shape)
        raise BadInputError(f"is of shape {shape} for {len(logits)} tokens", where=where)
    if bool(torch.isnan(found).any()):
        raise BadInputError("is not a number", where=where)
    return found.reshape(-1, 1)
