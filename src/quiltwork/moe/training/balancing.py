"""The load-balance loss of a step that may be computed in parts: what is counted, and what counts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quiltwork.moe.routing import Routing
from quiltwork.moe.training.settings import SINGLE


@dataclass(frozen=True)
class Counts:
    """Of the W experts that a router knows."""

    counted: Tensor
    """(W,) float32: tokens that count for each expert's share f_e."""
    load: Tensor
    """(E,) float32: all rows of each expert that does something."""
    second: Tensor
    """(T,) bool: which tokens have more than one."""


def counts_of(routing: Routing, of: str) -> Counts:
    """of : ``single`` counts tokens with a single expert, ``first`` the first choice of all."""
    taken, width = routing.experts_per_token(), routing.probabilities.shape[1]
    alone = taken[routing.token] == 1
    chosen = routing.expert[alone] if of == SINGLE else routing.probabilities.detach().argmax(-1)
    return Counts(torch.bincount(chosen, minlength=width).float(), routing.load.float(), taken > 1)


def balance_loss_of(routing: Routing, counted: Tensor, tokens: float) -> Tensor:
    """W * sum over e of f_e * p_e. f_e : of what was counted (W,), the share of e; 0 where nothing was.

    tokens : what the sum of probabilities is divided by for p_e. The tokens' number makes the mean; what a sample has
    in the mean, times samples, makes a loss of which the mean over parts of a step is that of the step.
    """
    share = counted / counted.sum().clamp_min(1e-9)
    return len(counted) * (share * routing.probabilities.sum(0)).sum() / tokens
