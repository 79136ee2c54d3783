"""An encoder of the source, and a decoder that looks at it and at the target so far."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from quiltwork.moe.gate import Gate
from quiltwork.moe.models.blocks import Angled, Block, Blocks
from quiltwork.moe.models.outcome import Outcome, Routed
from quiltwork.moe.models.packed import Packed
from quiltwork.moe.models.shape import ModelShape


class Translator(nn.Module):
    """gates : one for each layer, the encoder's first; None for a dense one. Both languages share their tokens."""

    def __init__(self, shape: ModelShape, gates: Sequence[Gate | None]) -> None:
        super().__init__()
        self.shape = shape
        half = len(gates) // 2
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.encoder = Blocks(Block(shape, gate) for gate in gates[:half])
        self.encoder_norm = nn.RMSNorm(shape.width, shape.eps)
        self.layers = Blocks(Block(shape, gate, crossed=True) for gate in gates[half:])
        self.norm = nn.RMSNorm(shape.width, shape.eps)
        self.lm_head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        self.angled = Angled(shape)

    def encode(self, ids: Tensor, packed: Packed) -> tuple[Tensor, tuple[Routed, ...]]:
        """ids : (S,) of the sources -> states (S, D), and how they were routed."""
        x, routed = self.encoder(self.embed_tokens(ids), packed, angles=self.angled(packed), causal=False)
        return self.encoder_norm(x), routed

    def decode(self, ids: Tensor, packed: Packed, over: tuple[Tensor, Packed]) -> Outcome:
        """ids : (T,) of the targets -> logits (T, vocabulary). over : what ``encode`` gave, and where it lies."""
        x, routed = self.layers(self.embed_tokens(ids), packed, angles=self.angled(packed), causal=True, over=over)
        return Outcome(self.lm_head(self.norm(x)), routed)

    def forward(self, source: Tensor, source_packed: Packed, target: Tensor, target_packed: Packed) -> Outcome:
        """Logits (T, vocabulary) of the targets' tokens, each seeing what is before it."""
        states, routed = self.encode(source, source_packed)
        outcome = self.decode(target, target_packed, (states, source_packed))
        return Outcome(outcome.logits, (*routed, *outcome.routed))
