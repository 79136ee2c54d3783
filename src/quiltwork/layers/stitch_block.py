"""A linear map between two widths: what joins the lower half of one model to the upper half of another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from quiltwork.layers.arch import count, known_keys
from quiltwork.layers.attachments import PartShape
from quiltwork.layers.block import AttachablePart, batch_of
from quiltwork.layers.projection import Projection, load_projection
from quiltwork.layers.protocol import Executor, Gathered, PagedKV, Placement, Runs, Weights

_KEYS = frozenset({"input_size", "hidden_size"})


class StitchExecutor(AttachablePart):
    """(rows, d_a) -> (rows, d_b): ``linear(x) + bias``, nothing else and no state."""

    def __init__(self, linear: Projection, placement: Placement) -> None:
        super().__init__(PartShape((linear,), {}, placement))
        self._linear = linear
        self.nbytes = linear.nbytes

    def __call__(self, x: Tensor, runs: Runs, kv: PagedKV | None = None, gathered: Gathered | None = None) -> Tensor:
        """See ``Executor``."""
        batch = batch_of(gathered)
        return self._linear(x, batch.projections.get("linear") if batch else None)


def stitch_executor(arch: Mapping[str, Any], weights: Weights, placement: Placement) -> Executor:
    """Load a ``stitch`` block (see ``ExecutorFactory``)."""
    known_keys(arch, _KEYS)
    into, out = count(arch, "input_size"), count(arch, "hidden_size")
    return StitchExecutor(load_projection("linear", weights, "linear", ({"linear": out},), into), placement)
