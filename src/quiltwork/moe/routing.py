"""Which tokens go to which experts: flat lists sorted by expert, so that every token may have as many as it needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Routing:
    """The M assignments of T tokens to E experts. A token without any keeps only what passes beside the layer."""

    token: Tensor
    """(M,) int64: sorted by expert, and for one expert ascending."""
    expert: Tensor
    """(M,) int64, ascending."""
    weight: Tensor
    """(M,) float32: what the expert's output is multiplied by. The router's gradient comes through it."""
    offsets: Tensor
    """(E + 1,) int64: expert e has the assignments offsets[e] to offsets[e + 1]."""
    probabilities: Tensor
    """(T, E) float32: the router's softmax, with its gradient."""

    @property
    def tokens(self) -> int:
        """T."""
        return self.probabilities.shape[0]

    @property
    def load(self) -> Tensor:
        """(E,) int64: assignments of each expert."""
        return self.offsets.diff()

    def experts_per_token(self) -> Tensor:
        """(T,) int64."""
        return torch.bincount(self.token, minlength=self.tokens)


def routing_of(experts: Tensor, weights: Tensor, chosen: Tensor, probabilities: Tensor) -> Routing:
    """The flat lists of a table of candidates.

    experts : (T, K) int64, the candidates of each token. weights : (T, K) float32. chosen : (T, K) bool.
    probabilities : (T, E) float32.
    """
    token, place = chosen.nonzero(as_tuple=True)
    expert = experts[token, place]
    order = torch.argsort(expert, stable=True)
    token, place, expert = token[order], place[order], expert[order]
    load = torch.bincount(expert, minlength=probabilities.shape[1])
    offsets = torch.cat([load.new_zeros(1), load.cumsum(0)])
    return Routing(token, expert, weights[token, place], offsets, probabilities)
