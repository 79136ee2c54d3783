"""The gates: fixed top-k, and as many experts as the gap between them asks for (adaptive gating)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quiltwork.core.errors import BadInputError
from quiltwork.moe.gate import first, probabilities_of, weights_of
from quiltwork.moe.routing import Routing, routing_of


@dataclass(frozen=True)
class TopK:
    """Always ``k`` experts (GShard's top-2, Switch's top-1)."""

    k: int = 2
    weights: str = "sum_to_one"

    def width(self, experts: int) -> int:
        """See ``Gate``."""
        if not 1 <= self.k <= experts:
            raise BadInputError(f"{self.k} experts of {experts} cannot be taken", where="k")
        return experts

    def __call__(self, logits: Tensor) -> Routing:
        """See ``Gate``."""
        probabilities = probabilities_of(logits)
        values, experts = first(probabilities, self.k)
        chosen = torch.ones_like(values, dtype=torch.bool)
        return routing_of(experts, weights_of(values, chosen, self.weights), chosen, probabilities)


READINGS = ("softmax", "pair")
"""What R of the gap is: the softmax over all experts (A), or over the two that are compared (B)."""


@dataclass(frozen=True)
class Adaptive:
    """The best expert, and the m-th one while R_1 - R_m <= T (section 3.1, T = 0.1 there).

    A threshold below 0 takes one expert always, one of at least 1 takes ``most``. Threshold and ``most`` may be tensors
    (T,), one for each token.
    """

    threshold: float | Tensor = 0.1
    most: int | Tensor = 2
    reading: str = "softmax"
    weights: str = "sum_to_one"

    def width(self, experts: int) -> int:
        """See ``Gate``."""
        if self.reading not in READINGS:
            raise BadInputError(f"{self.reading!r} is not a reading", where="reading", hint=", ".join(READINGS))
        if int(torch.as_tensor(self.most).min()) < 1:
            raise BadInputError("must be at least 1", where="most")
        return experts

    def __call__(self, logits: Tensor) -> Routing:
        """See ``Gate``."""
        probabilities = probabilities_of(logits)
        most = torch.as_tensor(self.most, device=logits.device)
        values, experts = first(probabilities, min(int(most.max()), probabilities.shape[1]))
        gaps = gaps_of(values.detach(), self.reading)
        threshold = torch.as_tensor(self.threshold, dtype=torch.float32, device=logits.device)
        chosen = gaps <= threshold.reshape(-1, 1)
        chosen[:, 0] = True
        chosen &= torch.arange(values.shape[1], device=logits.device) < most.reshape(-1, 1)
        return routing_of(experts, weights_of(values, chosen, self.weights), chosen, probabilities)


def gaps_of(values: Tensor, reading: str) -> Tensor:
    """R_1 - R_m of each candidate (T, K), whose softmax ``values`` (T, K) fall: 0 for the first, never above 1."""
    gaps = values[:, :1] - values
    return gaps if reading == "softmax" else gaps / (values[:, :1] + values)
