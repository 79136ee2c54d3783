"""The load-balance loss: soft pressure that tokens spread over all experts (section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from quiltwork.moe.gate import require_one_of
from quiltwork.moe.routing import Routing

COUNTED = ("single", "single_or_all", "all", "per_token")
"""What f_e counts. ``single``: of the tokens with a single expert, the share that has e (the paper's); ``all``: of all
assignments, the share of e; ``single_or_all``: the latter where no token has a single expert; ``per_token``: of all
tokens, the share that has e, k in the sum for k experts (Mixtral's in transformers)."""


def balance_loss(routing: Routing, counted: str = "single", counts: Tensor | None = None, workers: int = 1) -> Tensor:
    """E * sum over e of f_e * p_e, a scalar with the gradient of the probabilities; f_e has none.

    f_e : see ``COUNTED``. Where there is nothing to count (``single`` in the first steps, when all probabilities are
    alike) it is 0, and so is the loss. p_e : the mean probability of e over all tokens.

    counts : ``balance_counts`` summed over ``workers`` workers, for the loss of their tokens together: what each worker
    gets has that loss as the mean over workers, and its gradient as the mean of theirs, which is what averaging
    gradients (DDP) makes of it. Without, every worker's loss is of its own tokens: the mean over workers is then
    another loss, since f and p are multiplied before they are averaged.
    """
    require_one_of(counted, COUNTED, "counted")
    experts = len(routing.offsets) - 1
    counts = balance_counts(routing) if counts is None else counts
    single, every, tokens = counts[:experts], counts[experts:-1], counts[-1]
    if counted == "single":
        share = single / single.sum().clamp_min(1)
    elif counted == "single_or_all":
        taken = torch.where(single.sum() > 0, single, every)
        share = taken / taken.sum().clamp_min(1)
    elif counted == "all":
        share = every / every.sum().clamp_min(1)
    else:
        share = every / tokens.clamp_min(1)
    mean = routing.probabilities.sum(0)[:experts] * (workers / tokens.clamp_min(1))
    return experts * (share * mean).sum()


def balance_counts(routing: Routing) -> Tensor:
    """(2 E + 1,) int64: of each expert its single-expert tokens, of each expert its assignments, tokens.

    Summed over workers it is ``counts`` of ``balance_loss``.
    """
    experts = len(routing.offsets) - 1
    single = routing.experts_per_token()[routing.token] == 1
    counts = torch.bincount(routing.expert[single], minlength=experts)
    return torch.cat([counts, routing.load, counts.new_tensor([routing.tokens])])
