"""The experts of a layer as stacked weights, run on rows sorted by expert: no padding, no capacity, no mask."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from quiltwork.layers.activation import activation
from quiltwork.moe.routing import Routing


class Experts(nn.Module):
    """E feed-forward networks: ``down(act(gate) * up)`` where gated, else ``down(act(up))``.

    up : (E, H, D), or (E, 2H, D) where gated with the gate's half first. down : (E, D, H). Biases (E, H or 2H) and
    (E, D) where there are.
    """

    def __init__(
        self, experts: int, width: int, inner: int, *, gated: bool, activation: str, bias: bool = False
    ) -> None:
        super().__init__()
        raised = 2 * inner if gated else inner
        self.gated, self.activation = gated, activation
        self.up = nn.Parameter(torch.empty(experts, raised, width))
        self.down = nn.Parameter(torch.empty(experts, width, inner))
        self.up_bias = nn.Parameter(torch.zeros(experts, raised)) if bias else None
        self.down_bias = nn.Parameter(torch.zeros(experts, width)) if bias else None

    @property
    def count(self) -> int:
        """E."""
        return self.up.shape[0]

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """x : (T, D) -> (T, D): of each token the weighted sum over its experts."""
        act = activation(self.activation)
        rows = x[routing.token]
        bounds = routing.offsets.tolist()
        ups, downs = self.up.unbind(0), self.down.unbind(0)  # indexing would make a gradient of all E for each
        up_biases = self.up_bias.unbind(0) if self.up_bias is not None else [None] * self.count
        down_biases = self.down_bias.unbind(0) if self.down_bias is not None else [None] * self.count
        done = []
        for e, (start, end) in enumerate(pairwise(bounds)):
            raised = nn.functional.linear(rows[start:end], ups[e], up_biases[e])
            if self.gated:
                gate, up = raised.chunk(2, -1)
                raised = act(gate) * up
            else:
                raised = act(raised)
            done.append(nn.functional.linear(raised, downs[e], down_biases[e]))
        out = torch.cat(done) * routing.weight.to(x.dtype)[:, None]
        return torch.zeros_like(x).index_add(0, routing.token, out)
