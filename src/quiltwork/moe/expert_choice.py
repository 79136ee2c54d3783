"""Experts that choose their tokens (Zhou et al. 2022): all experts have as much to do, tokens have more or less."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from quiltwork.core.errors import BadInputError
from quiltwork.moe.gate import probabilities_of, require_one_of
from quiltwork.moe.routing import Routing, routing_of
from quiltwork.moe.weights import WEIGHTS, weights_of


@dataclass(frozen=True)
class ExpertChoice:
    """Each expert takes the round(T * mean / E) tokens that find it most probable, one at least.

    mean : experts per token, in the mean (the capacity factor). lengths : of the sequences that the T tokens are, one
    after another; each is then chosen from apart, so that an answer does not depend on what else is in the batch.

    Whether a token is taken depends on later tokens of its sequence: a causal language model trained so has seen the
    future, its loss says less than it seems to, and generating token by token it decides otherwise than in training.
    """

    mean: float = 2.0
    lengths: tuple[int, ...] | None = None
    weights: str = "raw"

    def width(self, experts: int) -> int:
        """See ``Gate``."""
        require_one_of(self.weights, WEIGHTS, "weights")
        if not 0 < self.mean <= experts:
            raise BadInputError(f"{self.mean} of {experts} experts cannot be taken", where="mean")
        return experts

    def __call__(self, logits: Tensor) -> Routing:
        """See ``Gate``."""
        probabilities = probabilities_of(logits)
        tokens, experts = probabilities.shape
        lengths = (tokens,) if self.lengths is None else self.lengths
        if sum(lengths) != tokens or min(lengths, default=0) < 0:
            raise BadInputError(f"are not those of {tokens} tokens", where="lengths")
        parts = [_chosen(part, self.mean) for part in torch.split(probabilities.detach(), list(lengths))]
        chosen = torch.cat(parts) if parts else probabilities.detach().bool()
        each = torch.arange(experts, device=logits.device).expand(tokens, experts)
        return routing_of(each, weights_of(probabilities, each, chosen, self.weights), chosen, probabilities)


def _chosen(probabilities: Tensor, mean: float) -> Tensor:
    """(n, E) bool: of each expert the tokens that it takes; of equals, the earlier one."""
    tokens, experts = probabilities.shape
    count = min(tokens, max(1, math.floor(tokens * mean / experts + 0.5)))
    order = torch.argsort(probabilities, dim=0, descending=True, stable=True)[:count]
    return torch.zeros_like(probabilities, dtype=torch.bool).scatter_(0, order, True)
