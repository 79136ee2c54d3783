"""The last block: ``lm_head(norm(x))``, one score per word of the vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from quiltwork.layers.arch import count, known_keys
from quiltwork.layers.attachments import PartShape
from quiltwork.layers.block import AttachablePart, batch_of
from quiltwork.layers.norm import Norm, load_norm
from quiltwork.layers.projection import Projection, load_projection
from quiltwork.layers.protocol import Executor, Gathered, PagedKV, Placement, Runs, Weights

_KEYS = frozenset({"hidden_size", "vocab_size", "norm", "norm_eps"})


class HeadExecutor(AttachablePart):
    """(rows, d) -> (rows, vocab) logits."""

    def __init__(self, norm: Norm, lm_head: Projection, placement: Placement) -> None:
        super().__init__(PartShape((lm_head,), norm.roles, placement))
        self._norm, self._lm_head = norm, lm_head
        self.nbytes = norm.nbytes + lm_head.nbytes

    def __call__(self, x: Tensor, runs: Runs, kv: PagedKV | None = None, gathered: Gathered | None = None) -> Tensor:
        """See ``Executor``."""
        batch = batch_of(gathered)
        normed = self._norm(x, batch.norms if batch else None)
        return self._lm_head(normed, batch.projections.get("lm_head") if batch else None)


def head_executor(arch: Mapping[str, Any], weights: Weights, placement: Placement) -> Executor:
    """Load a ``head`` block (see ``ExecutorFactory``)."""
    known_keys(arch, _KEYS)
    width, vocab = count(arch, "hidden_size"), count(arch, "vocab_size")
    return HeadExecutor(
        load_norm(arch, weights),
        load_projection("lm_head", weights, "linear", ({"lm_head": vocab},), width),
        placement,
    )
