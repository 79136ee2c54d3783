"""The gates: fixed top-k, and as many experts as the gap between them asks for (adaptive gating)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quiltwork.core.errors import BadInputError
from quiltwork.moe.gate import first, per_token, probabilities_of, require_one_of
from quiltwork.moe.routing import Routing, routing_of
from quiltwork.moe.weights import WEIGHTS, weights_of


@dataclass(frozen=True)
class TopK:
    """Always ``k`` experts (GShard's top-2, Switch's top-1)."""

    k: int = 2
    weights: str = "sum_to_one"

    def width(self, experts: int) -> int:
        """See ``Gate``."""
        require_one_of(self.weights, WEIGHTS, "weights")
        if not 1 <= self.k <= experts:
            raise BadInputError(f"{self.k} experts of {experts} cannot be taken", where="k")
        return experts

    def __call__(self, logits: Tensor) -> Routing:
        """See ``Gate``."""
        probabilities = probabilities_of(logits)
        values, experts = first(probabilities, self.k)
        chosen = torch.ones_like(values, dtype=torch.bool)
        return routing_of(experts, weights_of(probabilities, experts, chosen, self.weights), chosen, probabilities)


READINGS = ("softmax", "pair")
"""What R of the gap is: the softmax over all experts (A), or over the two that are compared (B)."""


@dataclass(frozen=True)
class Adaptive:
    """The best expert, and the m-th one while R_1 - R_m <= T (section 3.1, T = 0.1 there).

    A threshold below 0 takes one expert always, one of at least 1 takes ``most``; one of 0 takes equals. Threshold and
    ``most`` may be tensors (T,), one for each token. With fewer experts than ``most``, all of them are candidates.
    """

    threshold: float | Tensor = 0.1
    most: int | Tensor = 2
    reading: str = "softmax"
    weights: str = "sum_to_one"

    def width(self, experts: int) -> int:
        """See ``Gate``."""
        require_one_of(self.reading, READINGS, "reading")
        require_one_of(self.weights, WEIGHTS, "weights")
        require_most(self.most)
        return experts

    def __call__(self, logits: Tensor) -> Routing:
        """See ``Gate``."""
        threshold, most = per_token(self.threshold, logits, "threshold"), per_token(self.most, logits, "most")
        probabilities = probabilities_of(logits)
        values, experts = candidates(probabilities, most)
        chosen = gaps_of(values, self.reading) <= threshold
        chosen[:, 0] = True
        chosen &= torch.arange(values.shape[1], device=logits.device) < most
        return routing_of(experts, weights_of(probabilities, experts, chosen, self.weights), chosen, probabilities)


def gaps_of(values: Tensor, reading: str) -> Tensor:
    """R_1 - R_m of each candidate (T, K), whose softmax ``values`` (T, K) fall: 0 for the first, never above 1."""
    gaps = values[:, :1] - values
    return gaps if reading == "softmax" else gaps / (values[:, :1] + values)


def require_most(most: int | Tensor) -> None:
    """Raises BadInputError where a token might have to do without its best expert."""
    if int(torch.as_tensor(most).min()) < 1:
        raise BadInputError("must be at least 1", where="most")


def candidates(probabilities: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """The most probable experts, as many as any token may take: values, indices (T, K). most : (1, 1) or (T, 1)."""
    return first(probabilities, min(int(most.max()) if most.numel() else 1, probabilities.shape[1]))
