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
    """The ``count`` most probable of each token, of equals the lower index first: values without gradient, indices.

    Both are (T, count).
    """
    given = probabilities.detach()
    if compilable(given) and count * given.shape[1] <= _SELECTED:
        values, indices = given.new_empty(len(given), count), torch.empty(len(given), count, dtype=torch.int64)
        _select(given.contiguous().numpy(), values.numpy(), indices.numpy())
        return values, indices
    values, indices = torch.sort(given, dim=-1, descending=True, stable=True)
    return values[:, :count], indices[:, :count]


_SELECTED = 1024
"""Up to so many comparisons per token, putting one after another into its place is quicker than sorting."""


@kernel()
def _select(probabilities, values, indices):  # type: ignore[no-untyped-def]
    tokens, count = indices.shape
    for t in range(tokens):
        row, highest, at = probabilities[t], values[t], indices[t]
        highest[:], at[:] = np.float32(-1), 0
        for e in range(len(row)):
            p = row[e]
            if p <= highest[count - 1]:
                continue
            place = count - 1
            while place > 0 and p > highest[place - 1]:
                highest[place], at[place] = highest[place - 1], at[place - 1]
                place -= 1
            highest[place], at[place] = p, e


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
