"""The load-balance loss: soft pressure that single-expert tokens spread over all experts (section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from quiltwork.moe.routing import Routing


def balance_loss(routing: Routing) -> Tensor:
    """E * sum over e of f1_e * p_e, a scalar with the gradient of the probabilities.

    f1_e : of the tokens with a single expert, the share that has e. p_e : the mean probability of e over all tokens.
    Where no token has a single expert (the first steps, when all probabilities are alike) it is 0.
    """
    experts = len(routing.offsets) - 1
    single = routing.experts_per_token()[routing.token] == 1
    counts = torch.bincount(routing.expert[single], minlength=experts)
    share = counts / counts.sum().clamp_min(1)
    return experts * (share * routing.probabilities.mean(0)[:experts]).sum()
