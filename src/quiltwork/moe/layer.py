"""The mixture-of-experts layer: a router, a gate, experts, and what every token passes besides."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quiltwork.core.errors import BadInputError
from quiltwork.moe.experts import Experts
from quiltwork.moe.gate import Gate
from quiltwork.moe.routing import Routing


class MoELayer(nn.Module):
    """Takes the place of a feed-forward layer. ``gate`` may be set to another between two calls.

    shared : what every token takes beside its experts (Qwen-MoE), (T, D) -> (T, D). jitter : in training, each logit is
    moved by up to that much either way before the gate sees it, so before any threshold; ``generator`` draws it.
    """

    def __init__(
        self,
        experts: Experts,
        gate: Gate,
        shared: nn.Module | None = None,
        *,
        jitter: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= jitter < float("inf"):
            raise BadInputError(f"{jitter} is not how far a logit may be moved", where="jitter")
        if jitter and generator is None:
            raise BadInputError("needs a generator to draw it", where="jitter")
        self.experts, self.gate, self.shared = experts, gate, shared
        self.jitter, self.generator = jitter, generator
        self.router = nn.Parameter(torch.zeros(gate.width(experts.count), experts.up.shape[2]))

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        """x : (T, D), without padding -> (T, D), and how it was routed."""
        logits = nn.functional.linear(x.float(), self.router.float())
        if self.training and self.jitter:
            logits = logits + self._noise(logits)
        routing = self.gate(logits)
        y: Tensor = self.experts(x, routing)
        return (y if self.shared is None else y + self.shared(x)), routing

    def _noise(self, like: Tensor) -> Tensor:
        assert self.generator is not None  # checked when it was made
        drawn = torch.rand(like.shape, generator=self.generator, device=self.generator.device)
        return ((2 * drawn - 1) * self.jitter).to(like.device)
