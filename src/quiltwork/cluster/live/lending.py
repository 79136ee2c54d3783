"""Inference's side of a loan, as the controller sees it."""

from __future__ import annotations

from typing import Protocol


class Lender(Protocol):
    """Whoever serves with the servers that are lent."""

    def need(self) -> float:
        """The share of its servers that inference needs now, 0 to 1. Raises QuiltworkError where nobody can tell."""
        ...

    def release(self, server: str) -> bool:
        """Stop using a server; whether it is idle, so that it may be lent. Asked again until it is."""
        ...

    def take_back(self, server: str) -> None:
        """Nobody else is on it any more: use it again."""
        ...
