"""Which tokens go to which experts: flat lists sorted by expert, so that every token may have as many as it needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quiltwork.layers.compiled import kernel


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
    """(T, W) float32: the router's softmax over E experts, and null experts behind them, with its gradient."""

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


def routing_of(
    experts: Tensor, weights: Tensor, chosen: Tensor, probabilities: Tensor, count: int | None = None
) -> Routing:
    """The flat lists of a table of candidates.

    experts : (T, K) int64, the candidates of each token. weights : (T, K) float32. chosen : (T, K) bool, of experts
    below E only. probabilities : (T, W) float32. count : E; W where None.
    """
    count = probabilities.shape[1] if count is None else count
    if experts.device.type == "cpu":
        place, offsets = _sorted_on_cpu(experts, chosen, count)
    else:
        place = chosen.flatten().nonzero()[:, 0]
        of_place = experts.flatten()[place]
        place = place[torch.argsort(of_place, stable=True)]
        load = torch.bincount(of_place, minlength=count)
        offsets = torch.cat([load.new_zeros(1), load.cumsum(0)])
    token = place // max(1, experts.shape[1])
    weight = weights.flatten().index_select(0, place)
    return Routing(token, experts.flatten().index_select(0, place), weight, offsets, probabilities)


def _sorted_on_cpu(experts: Tensor, chosen: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The places (M,) of what is chosen in the table read row by row, sorted by expert; offsets (E + 1,)."""
    offsets = torch.zeros(count + 1, dtype=torch.int64)
    table, mask = experts.contiguous().numpy(), chosen.contiguous().numpy()
    place = torch.empty(_count(table, mask, offsets.numpy()), dtype=torch.int64)
    _place(table, mask, offsets.numpy().copy(), place.numpy())
    return place, offsets


@kernel()
def _count(experts, chosen, offsets):  # type: ignore[no-untyped-def]
    tokens, most = experts.shape
    for t in range(tokens):
        for k in range(most):
            if chosen[t, k]:
                offsets[experts[t, k] + 1] += 1
    for e in range(len(offsets) - 1):
        offsets[e + 1] += offsets[e]
    return offsets[-1]


@kernel()
def _place(experts, chosen, next_of, place):  # type: ignore[no-untyped-def]
    tokens, most = experts.shape
    for t in range(tokens):
        for k in range(most):
            if chosen[t, k]:
                place[next_of[experts[t, k]]] = t * most + k
                next_of[experts[t, k]] += 1
