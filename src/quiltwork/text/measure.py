"""What a measure is, and what all of them say of sentences that are empty or the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Protocol

Tokens = Sequence[str]


class Measure(Protocol):
    """How alike two sentences are, from their tokens: from 0 to 1, the same both ways round, in every process.

    Two sentences of the same tokens have exactly 1, and so have two that are empty; if one is empty, it is 0.
    """

    def __call__(self, a: Tokens, b: Tokens, /) -> float: ...


def settled(formula: Callable[[Tokens, Tokens], float]) -> Measure:
    """``formula`` where there is something to measure: it is asked about two different sentences that have tokens.
    What it returns is kept within 0 and 1, which roundings may leave."""

    @wraps(formula)
    def measure(a: Tokens, b: Tokens, /) -> float:
        if not a or not b:
            return 1.0 if not a and not b else 0.0
        if tuple(a) == tuple(b):
            return 1.0
        return min(1.0, max(0.0, formula(a, b)))

    return measure
