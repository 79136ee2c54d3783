"""Sequences of unequal length as one run of tokens: padding exists nowhere but inside attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """Where the tokens of n sequences lie in a run of T. Every sequence has a token at least."""

    lengths: Tensor
    """(n,) int64."""

    @property
    def sequences(self) -> int:
        """n."""
        return len(self.lengths)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest one."""
        return int(self.lengths.max())

    @cached_property
    def sequence(self) -> Tensor:
        """(T,) int64: which sequence a token is of."""
        return torch.repeat_interleave(torch.arange(self.sequences, device=self.lengths.device), self.lengths)

    @cached_property
    def position(self) -> Tensor:
        """(T,) int64: where in its sequence a token is."""
        starts = self.lengths.cumsum(0) - self.lengths
        return torch.arange(len(self.sequence), device=self.lengths.device) - starts[self.sequence]

    @cached_property
    def even(self) -> bool:
        """Whether all are equally long."""
        return int(self.lengths.min()) == self.longest

    @cached_property
    def _place(self) -> Tensor:
        return self.sequence * self.longest + self.position

    @cached_property
    def keys(self) -> Tensor | None:
        """(n, 1, 1, longest) bool: which keys are tokens; None where all are."""
        if self.even:
            return None
        there = torch.arange(self.longest, device=self.lengths.device) < self.lengths[:, None]
        return there[:, None, None]

    def padded(self, x: Tensor) -> Tensor:
        """(T, ...) -> (n, longest, ...), with zeros behind the shorter ones."""
        rest = x.shape[1:]
        if self.even:
            return x.view(self.sequences, self.longest, *rest)
        wide = x.new_zeros(self.sequences * self.longest, *rest)
        return wide.index_copy(0, self._place, x).view(self.sequences, self.longest, *rest)

    def flat(self, x: Tensor) -> Tensor:
        """(n, longest, ...) -> (T, ...)."""
        run = x.reshape(-1, *x.shape[2:])
        return run if self.even else run[self._place]

    def mean(self, x: Tensor) -> Tensor:
        """(T, D) -> (n, D): the mean over each sequence's tokens."""
        total = x.new_zeros(self.sequences, x.shape[1]).index_add(0, self.sequence, x)
        return total / self.lengths[:, None].to(x.dtype)


def pack(sequences: Sequence[Tensor], device: torch.device | None = None) -> tuple[Tensor, Packed]:
    """Sequences' ids (one after the other) as (T,) int64, and where they lie."""
    lengths = torch.tensor([len(one) for one in sequences], dtype=torch.int64, device=device)
    return torch.cat(list(sequences)).to(device, torch.int64), Packed(lengths)
