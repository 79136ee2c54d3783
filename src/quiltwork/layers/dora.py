"""Weight-decomposed low-rank updates (DoRA): ``m * (W + s B A) / ||W + s B A||``, the norm over each output's inputs.

The norm depends on the request's scale s, but only through three inner products per output that do not:
``||W + s D||² = ||W||² + 2 s <W, D> + s² ||D||²`` with D = B A. They are kept, so any scale is a vector operation.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from quiltwork.layers.lora import LowRank


def squared_norms(weight: Tensor, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(||W||², <W, D>, ||D||²) per output in float64; weight (out, in), down (r, in), up (r, out)."""
    wide, delta = weight.double(), up.double().t() @ down.double()
    return wide.square().sum(1), (wide * delta).sum(1), delta.square().sum(1)


def norm_at(squares: tuple[Tensor, Tensor, Tensor], scale: float) -> Tensor:
    """``||W + scale * D||`` per output, float64."""
    base, mixed, delta = squares
    return (base + 2 * scale * mixed + scale * scale * delta).clamp_min(0).sqrt()


@dataclass(frozen=True)
class Magnitude:
    """One role's DoRA: the low-rank update, the learned magnitude, and what the norm is made of."""

    update: LowRank
    magnitude: Tensor
    """(out,) of the role."""
    squares: tuple[Tensor, Tensor, Tensor]
    bias: Tensor | None
    """(out,) the role's bias in the base: DoRA scales the product, not the bias."""
    width: int
    """Outputs of the whole projection."""

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors but the base's bias."""
        return self.update.nbytes + self.magnitude.nbytes + sum(s.nbytes for s in self.squares)

    def fold(
        self, scale: float, factor: Tensor | None, shift: Tensor | None
    ) -> tuple[LowRank, Tensor | None, Tensor | None]:
        """(update, factor, shift) of ``y = factor * y + shift + update`` with this DoRA applied below them."""
        effective = self.update.scale * scale
        ratio = (self.magnitude.double() / norm_at(self.squares, effective)).to(self.magnitude.dtype)
        columns = slice(self.update.offset, self.update.offset + ratio.shape[0])
        own = ratio.new_ones(self.width)
        own[columns] = ratio
        moved = None
        if self.bias is not None:
            moved = ratio.new_zeros(self.width)
            moved[columns] = self.bias * (1 - ratio)
            moved = moved if factor is None else moved * factor
        up = self.update.up * ratio
        if factor is not None:
            up = up * factor[columns]
        total = moved if shift is None else shift if moved is None else shift + moved
        return (
            LowRank(self.update.down, up, self.update.offset, effective),
            own if factor is None else factor * own,
            total,
        )


def magnitude_of(update: LowRank, magnitude: Tensor, weight: Tensor, bias: Tensor | None, width: int) -> Magnitude:
    """A role's DoRA from its base weight (out, in), which is not kept."""
    return Magnitude(update, magnitude, squared_norms(weight, update.down, update.up), bias, width)
