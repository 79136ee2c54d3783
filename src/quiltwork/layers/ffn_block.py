"""``x + down(act(gate(n)) * up(n))`` with n = norm(x), or ``x + down(act(up(n)))`` where not gated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from quiltwork.layers.activation import activation, gated
from quiltwork.layers.arch import choice, count, known_keys
from quiltwork.layers.attachments import PartShape
from quiltwork.layers.block import AttachablePart, batch_of
from quiltwork.layers.norm import Norm, load_norm
from quiltwork.layers.projection import Projection, load_projection
from quiltwork.layers.protocol import Executor, Gathered, PagedKV, Placement, Runs, Weights

_KEYS = frozenset({"hidden_size", "intermediate_size", "norm", "norm_eps", "activation", "gated", "layout", "bias"})


class FfnExecutor(AttachablePart):
    """(rows, d) -> (rows, d)."""

    def __init__(
        self, norm: Norm, up: Projection, down: Projection, activation_name: str, is_gated: bool, placement: Placement
    ) -> None:
        super().__init__(PartShape((up, down), norm.roles, placement))
        self._norm, self._up, self._down = norm, up, down
        self._name, self._gated, self._activation = activation_name, is_gated, activation(activation_name)
        self.nbytes = norm.nbytes + up.nbytes + down.nbytes

    def __call__(self, x: Tensor, runs: Runs, kv: PagedKV | None = None, gathered: Gathered | None = None) -> Tensor:
        """See ``Executor``."""
        batch = batch_of(gathered)
        own = batch.projections if batch else {}
        raised = self._up(self._norm(x, batch.norms if batch else None), own.get("up"))
        active = gated(self._name, raised) if self._gated else self._activation(raised)
        return self._down(active, own.get("down")).add_(x)


def ffn_executor(arch: Mapping[str, Any], weights: Weights, placement: Placement) -> Executor:
    """Load an ``ffn`` block (see ``ExecutorFactory``)."""
    known_keys(arch, _KEYS)
    width, inner = count(arch, "hidden_size"), count(arch, "intermediate_size")
    layout = choice(arch, "layout", ("linear", "conv1d"))
    is_gated = bool(arch.get("gated"))
    outputs = {"gate_proj": inner, "up_proj": inner} if is_gated else {"up_proj": inner}
    return FfnExecutor(
        load_norm(arch, weights),
        load_projection("up", weights, layout, (outputs,), width),
        load_projection("down", weights, layout, ({"down_proj": width},), inner),
        str(arch.get("activation")),
        is_gated,
        placement,
    )
