"""A gate to compare with: a second expert for as many tokens as an adaptive gate gives one, but for any tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quiltwork.core.errors import BadInputError
from quiltwork.moe.gate import first, probabilities_of, require_one_of
from quiltwork.moe.routing import Routing, routing_of
from quiltwork.moe.weights import WEIGHTS, weights_of


@dataclass(frozen=True)
class RandomSecond:
    """The best expert, and the second one for round(rate * T) of the T tokens, those whose draws are lowest.

    draws : a uniform number of each token (T,); or the seed of them, the same for every call; or what draws them anew
    in each call.
    """

    rate: float = 0.25
    draws: int | Tensor | torch.Generator = 0
    weights: str = "sum_to_one"

    def width(self, experts: int) -> int:
        """See ``Gate``."""
        require_one_of(self.weights, WEIGHTS, "weights")
        if not 0 <= self.rate <= 1:
            raise BadInputError(f"{self.rate} is not from 0 to 1", where="rate")
        if experts < 2 and self.rate > 0:
            raise BadInputError("there is no second expert", where="rate")
        return experts

    def __call__(self, logits: Tensor) -> Routing:
        """See ``Gate``."""
        probabilities = probabilities_of(logits)
        values, experts = first(probabilities, min(2, probabilities.shape[1]))
        chosen = torch.zeros_like(values, dtype=torch.bool)
        chosen[:, 0] = True
        lowest = torch.argsort(self._drawn(logits), stable=True)[: round(self.rate * len(logits))]
        if len(lowest):
            chosen[lowest, 1] = True
        return routing_of(experts, weights_of(probabilities, experts, chosen, self.weights), chosen, probabilities)

    def _drawn(self, logits: Tensor) -> Tensor:
        tokens = len(logits)
        if isinstance(self.draws, Tensor):
            if self.draws.shape != (tokens,):
                raise BadInputError(f"is of shape {tuple(self.draws.shape)} for {tokens} tokens", where="draws")
            return self.draws.to(logits.device)
        source = self.draws
        if isinstance(source, int):
            source = torch.Generator().manual_seed(source)
        return torch.rand(tokens, generator=source, device=source.device).to(logits.device)
