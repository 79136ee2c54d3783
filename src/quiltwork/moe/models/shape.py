"""What a model is made of, as numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelShape:
    """Of any of the models; the names of the fields are those that a training's settings have."""

    vocabulary: int
    width: int
    """D."""
    inner: int
    """H of one expert; a dense layer has ``active`` times as many."""
    layers: int
    """In all: a translator has one half of them in its encoder."""
    heads: int
    kv_heads: int
    experts: int
    """E; 0 for dense layers."""
    active: int = 2
    """Experts whose work a dense layer does."""
    classes: int = 0
    """Of a classifier."""
    theta: float = 10_000.0
    """RoPE's base."""
    eps: float = 1e-5
    """Of RMSNorm."""

    @property
    def head_width(self) -> int:
        """Of a head."""
        return self.width // self.heads
