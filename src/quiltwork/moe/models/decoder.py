"""A decoder in Mixtral's architecture: every token predicts the next."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from quiltwork.moe.gate import Gate
from quiltwork.moe.models.blocks import Angled, Block, Blocks
from quiltwork.moe.models.outcome import Outcome
from quiltwork.moe.models.packed import Packed
from quiltwork.moe.models.shape import ModelShape


class Decoder(nn.Module):
    """gates : one for each layer, None for a dense one."""

    def __init__(self, shape: ModelShape, gates: Sequence[Gate | None]) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = Blocks(Block(shape, gate) for gate in gates)
        self.norm = nn.RMSNorm(shape.width, shape.eps)
        self.lm_head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        self.angled = Angled(shape)

    def forward(self, ids: Tensor, packed: Packed) -> Outcome:
        """ids : (T,) -> logits (T, vocabulary)."""
        x, routed = self.layers(self.embed_tokens(ids), packed, angles=self.angled(packed), causal=True)
        return Outcome(self.lm_head(self.norm(x)), routed)
