"""The load-balance loss: soft pressure that tokens spread over all experts (section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from quiltwork.core.errors import BadInputError
from quiltwork.moe.gate import require_one_of
from quiltwork.moe.routing import Routing

COUNTED = SINGLE, FIRST, ALL = ("single", "first", "all")
"""What counts for the share f_e of an expert e. ``single``: tokens that have e alone (the paper's); ``first``: tokens
that find e the most probable; ``all``: all tokens that have e."""


def balance_loss(routing: Routing, counts: Tensor | None = None, tokens: float | None = None) -> Tensor:
    """W * sum over the W experts that the router knows of f_e * p_e: a scalar with the gradient of the probabilities.

    f_e : of what was counted, the share of e; 0 where nothing was (``single`` in the first steps, when all
    probabilities are alike), and so is the loss. It has no gradient. p_e : the mean probability of e over all tokens.

    counts : (W,) of ``balance_counts``; those of single experts where None. tokens : what the sum of probabilities is
    divided by; their number where None, which makes the mean.

    Of tokens that several workers have, or that are computed in parts, f and p are multiplied before they are
    averaged, so that the mean of the parts' losses is not the loss of all. It is where ``counts`` are those of all
    parts together and ``tokens`` what a part has in the mean; so is then the mean of the gradients (as DDP makes it).
    """
    counts = balance_counts(routing) if counts is None else counts
    share = counts / counts.sum().clamp_min(1e-9)
    divided_by = routing.tokens if tokens is None else tokens
    return len(counts) * (share * routing.probabilities.sum(0)).sum() / (divided_by or 1)


def balance_counts(routing: Routing, counted: str = SINGLE, *, choices: int | None = None) -> Tensor:
    """(W,) float32: how much counts for each expert (``COUNTED``). Counts of parts may be added.

    choices : of ``all``, how many a token has, null experts among them, where there are null experts
    (``NullExperts.k``). These count for alike, each as much as the mean of them, so that the loss evens out the true
    ones and how many choices fall on the others.

    Raises BadInputError where they are not known.
    """
    require_one_of(counted, COUNTED, "counted")
    width, experts = routing.probabilities.shape[1], len(routing.load)
    if counted == SINGLE:
        alone = routing.experts_per_token()[routing.token] == 1
        return torch.bincount(routing.expert[alone], minlength=width).float()
    if counted == FIRST:
        return torch.bincount(routing.probabilities.detach().argmax(-1), minlength=width).float()
    taken = routing.load.float()
    if width == experts:
        return taken
    if choices is None:
        raise BadInputError("how many there are of a token, null experts among them, is not said", where="choices")
    idle = (choices * routing.tokens - taken.sum()) / (width - experts)
    return torch.cat([taken, idle.expand(width - experts)])
