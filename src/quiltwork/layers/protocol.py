"""The seam between who schedules rows of many sequences and who does the arithmetic on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

Tell = Callable[[str, Tensor], None]
"""Takes the name of what is counted (``experts_per_token``) and (rows,) numbers."""


@dataclass(frozen=True)
class Runs:
    """Which rows of a batch belong to which sequence: one *run* of consecutive positions per sequence.

    Rows of all sequences stand below one another; a decoding sequence has one row, a prefilling one its chunk.
    Built once per step and group of sequences, used by every block of a segment.
    """

    positions: Tensor
    """(rows,) int64: position of each row in its sequence, virtual tokens included."""
    starts: Tensor
    """(sequences + 1,) int32 on the CPU: first row of each run; the last entry is the number of rows."""
    lengths: Tensor
    """(sequences,) int32 on the CPU: tokens of each sequence whose keys and values exist after this step."""
    options: Sequence[Mapping[str, Any]] = field(default=())
    """Per sequence, the request options an executor may read (experts per token); empty where there are none."""
    tell: Tell | None = field(default=None, compare=False)
    """Told by an executor, under a name, what it spent on each row."""

    def per_row(self, values: Sequence[Any]) -> list[Any]:
        """One value a row of one value a sequence."""
        counts = self.starts.diff().tolist()
        return [value for value, count in zip(values, counts, strict=True) for _ in range(count)]

    @property
    def rows(self) -> int:
        """Rows in the batch."""
        return int(self.positions.shape[0])

    @property
    def sequences(self) -> int:
        """Sequences in the batch."""
        return int(self.lengths.shape[0])

    @property
    def decode_only(self) -> bool:
        """Whether each sequence has exactly one row."""
        return self.rows == self.sequences


PAGE_TOKENS = 16
"""Tokens in one page of the KV cache."""


@dataclass(frozen=True)
class PagedKV:
    """One attention block's window on the page pool.

    ``pool`` is shared by all blocks with the same KV shape; a page holds keys and values of PAGE_TOKENS tokens of one
    block. An attention executor writes the new rows' keys and values, then attends over ``lengths[s]`` tokens.
    """

    pool: Tensor
    """(pages, 2, num_kv_heads, PAGE_TOKENS, head_dim): index 0 of the second axis is keys, 1 is values."""
    table: Tensor
    """(sequences, max_pages) int32 on the CPU: page numbers of each sequence in order, padded with 0."""


class LoadedAttachment(Protocol):
    """One attachment block made ready for a part of one base block: weights as tensors, scales folded in."""

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        ...

    @property
    def virtual_tokens(self) -> int:
        """Tokens that stand before the request's own: of a prefix or of a prompt; 0 where there are none."""
        ...

    @property
    def prefix(self) -> tuple[Tensor, Tensor] | None:
        """Keys and values (virtual_tokens, num_kv_heads, head_dim) to copy into the sequence's first page slots."""
        ...


class Gathered(Protocol):
    """The attachments of all sequences of a batch at one part, arranged for one pass (see ``Executor.gather``)."""


class Executor(Protocol):
    """One block, loaded: the same weights serve every sequence of a batch, attachments differ per sequence."""

    nbytes: int
    """Bytes of weights this executor holds, shared ones counted in full."""

    def attach(self, attachments: Sequence[Any]) -> LoadedAttachment:
        """Make a part's attachment blocks ready: one LoadedAttachment for all kinds that hang on this part.

        ``attachments`` is a sequence of ``(block_kind, arch, tensors)``. Raises UnsupportedError naming a kind or
        target that this block cannot take, BadInputError where a shape does not fit.
        """
        ...

    def gather(
        self, attached: Sequence[LoadedAttachment | None], scales: Sequence[float], runs: Runs
    ) -> Gathered | None:
        """Arrange the attachments of a batch, one entry per sequence (None for the bare block), scaled per request.

        Returns None where no sequence has any. The result depends on ``runs`` only through which sequences have how
        many rows, so that a decode batch whose membership did not change can use it again.
        """
        ...

    def __call__(self, x: Tensor, runs: Runs, kv: PagedKV | None = None, gathered: Gathered | None = None) -> Tensor:
        """Run the block. ``embed``: (rows,) int64 ids -> (rows, d), a negative id -k is virtual token k-1 of the
        sequence's prompt attachment. ``attn`` and ``ffn``: (rows, d) -> (rows, d). ``stitch``: (rows, d_a) ->
        (rows, d_b). ``head``: (rows, d) -> (rows, V).
        """
        ...


@dataclass(frozen=True)
class Placement:
    """Where and in which precision weights are computed with."""

    device: torch.device
    dtype: torch.dtype


class Weights(Protocol):
    """Hands out weights so that equal content is held once in memory, whatever blocks it appears in."""

    def get(self, role: str) -> Tensor | None:
        """The block's tensor of that role in the placement's dtype and device, or None if the block has none."""
        ...

    def prepared(self, key: tuple[str, ...], roles: Sequence[str], prepare: Any) -> Any:
        """``prepare(*tensors)``, held once per (``key``, contents of the roles' tensors): packed matrices and the like.

        A role the block does not have is handed on as None. Without roles it is held once per ``key``.
        """
        ...

    @property
    def inside(self) -> Mapping[str, Inner]:
        """The blocks inside this one (experts) by name, in order; held and let go with it."""
        ...


@dataclass(frozen=True)
class Inner:
    """A block inside another one: what an executor of the outer one loads it from."""

    kind: str
    arch: Mapping[str, Any]
    weights: Weights


class ExecutorFactory(Protocol):
    """What ``quiltwork.executors`` entry points name: builds the Executor of one block kind."""

    def __call__(self, arch: Mapping[str, Any], weights: Weights, placement: Placement) -> Executor:
        """Raises UnsupportedError naming the arch key or value that is not implemented."""
        ...
