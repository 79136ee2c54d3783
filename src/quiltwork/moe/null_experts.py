"""Experts that do nothing, beside the true ones: a token that takes them costs less (AdaMoE, Zeng et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from quiltwork.core.errors import BadInputError
from quiltwork.moe.gate import first, probabilities_of, require_one_of
from quiltwork.moe.routing import Routing, routing_of
from quiltwork.moe.weights import WEIGHTS, weights_of


@dataclass(frozen=True)
class NullExperts:
    """The ``k`` best of E true and ``nulls`` null experts, whose logits stand behind. A null one costs no row.

    Weights sum to one over the true experts that a token takes. A token may take none at all: the layer then gives
    zeros for it, beside what is shared.
    """

    k: int = 3
    nulls: int = 8
    weights: str = "sum_to_one"

    def width(self, experts: int) -> int:
        """See ``Gate``."""
        require_one_of(self.weights, WEIGHTS, "weights")
        if self.nulls < 0:
            raise BadInputError("must not be negative", where="nulls")
        if not 1 <= self.k <= experts + self.nulls:
            raise BadInputError(f"{self.k} experts of {experts} and {self.nulls} null ones cannot be taken", where="k")
        return experts + self.nulls

    def __call__(self, logits: Tensor) -> Routing:
        """See ``Gate``."""
        true = logits.shape[1] - self.nulls
        probabilities = probabilities_of(logits)
        _, experts = first(probabilities, self.k)
        chosen = experts < true
        weights = weights_of(probabilities, experts, chosen, self.weights)
        return routing_of(experts, weights, chosen, probabilities, true)
