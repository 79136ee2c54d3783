"""The mixture-of-experts layer: a router, a gate, experts, and what every token passes besides."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quiltwork.moe.experts import Experts
from quiltwork.moe.gate import Gate
from quiltwork.moe.routing import Routing


class MoELayer(nn.Module):
    """Takes the place of a feed-forward layer. ``gate`` may be set to another between two calls.

    shared : what every token takes beside its experts (Qwen-MoE), (T, D) -> (T, D).
    """

    def __init__(self, experts: Experts, gate: Gate, shared: nn.Module | None = None) -> None:
        super().__init__()
        self.experts, self.gate, self.shared = experts, gate, shared
        self.router = nn.Parameter(torch.zeros(gate.width(experts.count), experts.up.shape[2]))

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        """x : (T, D), without padding -> (T, D), and how it was routed."""
        routing = self.gate(nn.functional.linear(x.float(), self.router.float()))
        y: Tensor = self.experts(x, routing)
        return (y if self.shared is None else y + self.shared(x)), routing
