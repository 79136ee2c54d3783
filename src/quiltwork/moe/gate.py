"""A gate decides which experts a token takes: a small pure function from the router's logits to a ``Routing``."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from quiltwork.core.errors import BadInputError
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
    finite = torch.isfinite(logits).all(-1)
    if not bool(finite.all()):
        token = int((~finite).nonzero()[0])
        raise BadInputError(f"the router's logits of token {token} are not finite", where="gate")
    return torch.softmax(logits, -1)


def first(probabilities: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` most probable of each token, of equals the lower index first: values, indices (T, count)."""
    values, indices = torch.sort(probabilities, dim=-1, descending=True, stable=True)
    return values[:, :count], indices[:, :count]


WEIGHTS = ("sum_to_one", "raw")
"""``sum_to_one``: a token's weights are divided by their sum; ``raw``: the softmax values as they are (equation 3)."""


def weights_of(values: Tensor, chosen: Tensor, kind: str) -> Tensor:
    """The weights (T, K) of candidates with softmax ``values`` (T, K), of which ``chosen`` (T, K) are taken.

    Where a single expert is taken its weight is R / stopgrad(R): one, but the router keeps its gradient.
    """
    if kind == "raw":
        return values
    if kind != "sum_to_one":
        raise BadInputError(f"{kind!r} is not a kind of weights", where="weights", hint=", ".join(WEIGHTS))
    total = torch.where(chosen, values, 0.0).sum(-1, keepdim=True)
    single = chosen.sum(-1, keepdim=True) == 1
    return values / torch.where(single, total.detach(), total).clamp_min(torch.finfo(torch.float32).tiny)
