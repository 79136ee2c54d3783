"""The experts of a layer as stacked weights, run on rows sorted by expert: no padding, no capacity, no mask."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quiltwork.core.errors import BadInputError
from quiltwork.moe.kernel import run_experts
from quiltwork.moe.nonlinearity import nonlinearity
from quiltwork.moe.routing import Routing


class Experts(nn.Module):
    """E feed-forward networks: ``down(act(gate) * up)`` where gated, else ``down(act(up))``.

    up : (E, H, D), or (E, 2H, D) where gated with the gate's half first. down : (E, D, H). Biases (E, H or 2H) and
    (E, D) where there are. Raises UnsupportedError for an activation that is not known.
    """

    def __init__(
        self, experts: int, width: int, inner: int, *, gated: bool, activation: str, bias: bool = False
    ) -> None:
        super().__init__()
        raised = 2 * inner if gated else inner
        nonlinearity(activation, gated, compiled=False)  # refuses what is not known before anything is trained
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
        """x : (T, D) -> (T, D): of each token the weighted sum over its experts.

        Raises BadInputError where ``x`` is of another dtype or width than the weights.
        """
        if x.dtype != self.up.dtype or x.shape[1:] != self.up.shape[2:]:
            ours = f"{self.up.dtype} and {self.up.shape[2]} wide"
            raise BadInputError(f"is {x.dtype} of shape {tuple(x.shape)}, the experts are {ours}", where="x")
        return run_experts(
            x, routing, self.up, self.down, activation=self.activation, gated=self.gated,
            up_bias=self.up_bias, down_bias=self.down_bias,
        )  # fmt: skip
