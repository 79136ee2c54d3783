"""The gates that a training's settings ask for, one for each layer."""

from __future__ import annotations

from quiltwork.core.errors import UnsupportedError
from quiltwork.moe.gate import Gate
from quiltwork.moe.gates import Adaptive, TopK
from quiltwork.moe.models.build import Model
from quiltwork.moe.training.settings import DENSE, WHERE, TrainingSettings


class Gating:
    """Sets what a gate has to know of the batch that comes."""

    def __init__(self, settings: TrainingSettings, seed: int) -> None:
        self.gates: list[Gate | None] = [_gate(settings)] * settings.layers
        self.moment = (0, 0)

    def watch(self, model: Model) -> None:
        """Before every pass through a block of the model."""


def _gate(settings: TrainingSettings) -> Gate | None:
    kind, weights = settings.gate, settings.weights
    if kind == DENSE:
        return None
    if kind == "adaptive":
        return Adaptive(settings.threshold, settings.most, settings.reading, weights)
    if kind in ("top1", "top2"):
        return TopK(int(kind[3:]), weights)
    raise UnsupportedError(f"{kind!r} is not there", where=f"{WHERE}: gate")
