"""Who asks, what it counts, and how one engine did: what passes between a benchmark and ``work.crowd``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from work.replay import Request

PROMPT_PRICE, GENERATED_PRICE = 1.0, 2.0
"""What a token counts when shares are reckoned: the engine's own prices."""


def price(request: Request) -> float:
    """What serving a request counts."""
    return PROMPT_PRICE * len(request.prompt) + GENERATED_PRICE * request.new_tokens


@dataclass(frozen=True)
class Asked:
    """A request and whose it is."""

    tenant: str
    request: Request


@dataclass(frozen=True)
class Served:
    """How one engine did."""

    latency: Mapping[str, float]
    """Request id -> seconds from arrival to last token; of those that were not answered, the time they had waited."""
    answers: Mapping[str, Sequence[int]]
    """Of those that were answered."""
    seconds: float
    busy: float
    """Share of the seconds in which there was something to compute."""
    waiting: Mapping[str, float]
    """Tenant -> sequences waiting to start, mean over the steps."""
    seats: float
    """Sequences computed at a time, mean over the steps."""
    price: Mapping[str, float]
    """Tenant -> what was served to it, by price; what was not finished too."""
