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


def null_balance_loss(routing: Routing, k: int) -> Tensor:
    """W * sum over all W experts of f_e * p_e, null ones too; these are taken for alike (f and p are their means).

    f_e : the share of the k * T choices that fell on e. It evens out the true experts and, since a null one weighs as
    much as a true one, how many choices fall on null experts: W - E of W. It takes the place of ``balance_loss``.
    """
    experts, width = len(routing.load), routing.probabilities.shape[1]
    choices = max(1, k * routing.tokens)
    share = routing.load / choices
    mean = routing.probabilities.sum(0) / max(1, routing.tokens)
    total = (share * mean[:experts]).sum()
    if width > experts:
        total = total + (1 - share.sum()) / (width - experts) * mean[experts:].sum()
    return width * total
