"""The first block: token ids to rows, positions added where they are learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from quiltwork.core.errors import BadInputError
from quiltwork.layers.arch import count, known_keys, weight
from quiltwork.layers.attachments import PartBatch, PartShape
from quiltwork.layers.block import AttachablePart, batch_of
from quiltwork.layers.protocol import Executor, Gathered, PagedKV, Placement, Runs, Weights

_KEYS = frozenset({"hidden_size", "vocab_size", "max_positions"})


class EmbedExecutor(AttachablePart):
    """(rows,) int64 ids -> (rows, d)."""

    def __init__(self, tokens: Tensor, positions: Tensor | None, placement: Placement) -> None:
        super().__init__(PartShape((), {}, placement, prompt=tokens.shape[1], tokens=tokens))
        self._tokens, self._positions = tokens, positions
        self.nbytes = tokens.nbytes + (0 if positions is None else positions.nbytes)

    def __call__(self, x: Tensor, runs: Runs, kv: PagedKV | None = None, gathered: Gathered | None = None) -> Tensor:
        """See ``Executor``. Raises BadInputError for a virtual id of a sequence that has no such virtual token."""
        batch = batch_of(gathered)
        if batch is not None and batch.embeddings:
            rows = self._with_attachments(x, batch)
        else:
            if x.numel() and bool((x < 0).any()):
                raise BadInputError("a virtual token without a prompt attachment", where="ids")
            rows = self._tokens.index_select(0, x)
        if self._positions is not None:
            rows = rows + self._positions.index_select(0, runs.positions)
        return rows

    def _with_attachments(self, ids: Tensor, batch: PartBatch) -> Tensor:
        rows = self._tokens.index_select(0, ids.clamp_min(0))
        real = ids >= 0
        covered = real.clone()
        for begin, end, attached, scale in batch.embeddings:
            own = slice(begin, end)
            if attached.tokens is not None:
                rows[own] = attached.tokens.apply(ids[own].clamp_min(0), rows[own], scale)
            if attached.prompt is not None:
                number = -ids[own] - 1
                virtual = (number >= 0) & (number < attached.prompt.shape[0])
                rows[own][virtual] = attached.prompt[number[virtual]]
                covered[own] |= virtual
        if not bool(covered.all()):
            raise BadInputError("a virtual token that the sequence's prompt attachment does not have", where="ids")
        return rows


def embed_executor(arch: Mapping[str, Any], weights: Weights, placement: Placement) -> Executor:
    """Load an ``embed`` block (see ``ExecutorFactory``)."""
    known_keys(arch, _KEYS)
    width, vocab = count(arch, "hidden_size"), count(arch, "vocab_size")
    max_positions = count(arch, "max_positions", least=0) if "max_positions" in arch else 0
    positions = weight(weights, "positions.weight", max_positions, width) if max_positions else None
    return EmbedExecutor(weight(weights, "tokens.weight", vocab, width), positions, placement)
