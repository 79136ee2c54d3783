"""As many experts as it takes to hold a share of the probability (Huang et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quiltwork.core.errors import BadInputError
from quiltwork.moe.gate import per_token, probabilities_of, require_one_of
from quiltwork.moe.gates import candidates, require_most
from quiltwork.moe.routing import Routing, routing_of
from quiltwork.moe.weights import WEIGHTS, weights_of


@dataclass(frozen=True)
class TopP:
    """The fewest experts, the most probable first, whose probabilities sum to ``p`` (0.4 there) or more; one at least.

    ``p`` and ``most`` may be tensors (T,), one for each token. A ``p`` of at least 1 takes ``most``, all where None.
    What is spent follows from how sharp the router is. Where it is to be controlled, ``p`` is what a controller sets
    from step to step (DTop-p, arXiv 2512.13996), and ``normalise`` has each token's logits brought to mean 0 and
    standard deviation ``normalise`` first, so that one ``p`` means as much in one layer as in another; 0 for as they
    are.
    """

    p: float | Tensor = 0.4
    most: int | Tensor | None = None
    normalise: float = 0.0
    weights: str = "sum_to_one"

    def width(self, experts: int) -> int:
        """See ``Gate``."""
        require_one_of(self.weights, WEIGHTS, "weights")
        if self.most is not None:
            require_most(self.most)
        if not 0 <= self.normalise < float("inf"):
            raise BadInputError(f"{self.normalise} is no standard deviation", where="normalise")
        return experts

    def __call__(self, logits: Tensor) -> Routing:
        """See ``Gate``."""
        p = per_token(self.p, logits, "p").float()
        most = per_token(logits.shape[1] if self.most is None else self.most, logits, "most")
        probabilities = probabilities_of(normalised(logits, self.normalise) if self.normalise else logits)
        values, experts = candidates(probabilities, most)
        before = values.cumsum(-1) - values
        chosen = (before < p) | (p >= 1)
        chosen[:, 0] = True
        chosen &= torch.arange(values.shape[1], device=logits.device) < most
        return routing_of(experts, weights_of(probabilities, experts, chosen, self.weights), chosen, probabilities)


def normalised(logits: Tensor, deviation: float) -> Tensor:
    """logits : (T, E) -> each token's with mean 0 and this standard deviation; where all are alike, zeros."""
    centred = logits.float() - logits.float().mean(-1, keepdim=True)
    return centred * deviation / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
