"""An encoder that sees a whole text at once and tells its class from the mean of its tokens."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from quiltwork.moe.gate import Gate
from quiltwork.moe.models.blocks import Angled, Block, Blocks
from quiltwork.moe.models.outcome import Outcome
from quiltwork.moe.models.packed import Packed
from quiltwork.moe.models.shape import ModelShape


class Classifier(nn.Module):
    """gates : one for each layer, None for a dense one."""

    def __init__(self, shape: ModelShape, gates: Sequence[Gate | None]) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = Blocks(Block(shape, gate) for gate in gates)
        self.norm = nn.RMSNorm(shape.width, shape.eps)
        self.head = nn.Linear(shape.width, shape.classes, bias=False)
        self.angled = Angled(shape)

    def forward(self, ids: Tensor, packed: Packed) -> Outcome:
        """ids : (T,) of n texts -> logits (n, classes)."""
        x, routed = self.layers(self.embed_tokens(ids), packed, angles=self.angled(packed), causal=False)
        return Outcome(self.head(packed.mean(self.norm(x))), routed)
