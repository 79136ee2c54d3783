"""Rows of tokens to the experts and back: gather, and add by weight. Compiled for float32 on a CPU, else torch's.

Both kinds take the same arguments; the compiled one takes NumPy views of the tensors.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from quiltwork.layers.compiled import kernel


class Rows(Protocol):
    """Arguments are views (``view``) of contiguous tensors."""

    def view(self, tensor: Tensor) -> Any:
        """What the other functions take in the place of a tensor: it shares its memory, and can be sliced."""
        ...

    def take(self, table: Any, token: Any, out: Any) -> None:
        """out (n, D) = table[token]. table : (T, D), token : (n,) int64."""
        ...

    def add(self, total: Any, token: Any, rows: Any) -> None:
        """total[token] += rows. total : (T, D) float32, token : (n,) without repetition, rows : (n, D)."""
        ...

    def add_weighted(self, total: Any, token: Any, rows: Any, weight: Any) -> None:
        """total[token] += weight * rows. weight : (n,) float32."""
        ...


class TorchRows:
    """Any device, any dtype."""

    def view(self, tensor: Tensor) -> Tensor:
        """See ``Rows``."""
        return tensor.detach()

    def take(self, table: Tensor, token: Tensor, out: Tensor) -> None:
        """See ``Rows``."""
        torch.index_select(table, 0, token, out=out)

    def add(self, total: Tensor, token: Tensor, rows: Tensor) -> None:
        """See ``Rows``."""
        total.index_add_(0, token, rows.to(total.dtype))

    def add_weighted(self, total: Tensor, token: Tensor, rows: Tensor, weight: Tensor) -> None:
        """See ``Rows``."""
        total.index_add_(0, token, rows.to(total.dtype) * weight.to(total.dtype)[:, None])


class CompiledRows:
    """float32 on a CPU."""

    def view(self, tensor: Tensor) -> Any:
        """See ``Rows``."""
        return tensor.detach().numpy()

    def take(self, table: Any, token: Any, out: Any) -> None:
        """See ``Rows``."""
        _take(table, token, out)

    def add(self, total: Any, token: Any, rows: Any) -> None:
        """See ``Rows``."""
        _add(total, token, rows)

    def add_weighted(self, total: Any, token: Any, rows: Any, weight: Any) -> None:
        """See ``Rows``."""
        _add_weighted(total, token, rows, weight)


@kernel()
def _take(table, token, out):  # type: ignore[no-untyped-def]
    n, width = out.shape
    for i in range(n):
        row, into = table[token[i]], out[i]
        for j in range(width):
            into[j] = row[j]


@kernel()
def _add(total, token, rows):  # type: ignore[no-untyped-def]
    n, width = rows.shape
    for i in range(n):
        into, row = total[token[i]], rows[i]
        for j in range(width):
            into[j] += row[j]


@kernel()
def _add_weighted(total, token, rows, weight):  # type: ignore[no-untyped-def]
    n, width = rows.shape
    for i in range(n):
        into, row, w = total[token[i]], rows[i], weight[i]
        for j in range(width):
            into[j] += w * row[j]
