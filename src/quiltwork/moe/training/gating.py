"""The gates that a training's settings ask for, one for each layer, and what they have to know of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from quiltwork.moe.expert_choice import ExpertChoice
from quiltwork.moe.gate import Gate
from quiltwork.moe.gates import Adaptive, TopK
from quiltwork.moe.models.build import Model, moe_blocks
from quiltwork.moe.models.packed import Packed
from quiltwork.moe.null_experts import NullExperts
from quiltwork.moe.random_second import RandomSecond
from quiltwork.moe.top_p import TopP
from quiltwork.moe.training.settings import CONTROLLED, DENSE, TrainingSettings

_MAKERS: Mapping[str, Callable[[TrainingSettings, float], Gate | None]] = {
    DENSE: lambda s, mean: None,
    "adaptive": lambda s, mean: Adaptive(s.threshold, s.most, s.reading, s.weights),
    "top1": lambda s, mean: TopK(1, s.weights),
    "top2": lambda s, mean: TopK(2, s.weights),
    "random2": lambda s, mean: RandomSecond(mean - 1, weights=s.weights),
    "top_p": lambda s, mean: TopP(s.p, s.most, weights=s.weights),
    CONTROLLED: lambda s, mean: TopP(s.p, s.most, normalise=1.0, weights=s.weights),
    "null": lambda s, mean: NullExperts(s.most, s.nulls, s.weights),
    "expert_choice": lambda s, mean: ExpertChoice(mean, weights=s.weights),
}


def gates_of(settings: TrainingSettings) -> list[Gate | None]:
    """One for each layer; none for a dense one."""
    means = settings.mean_experts * (settings.layers if len(settings.mean_experts) == 1 else 1)
    return [_MAKERS[settings.gate](settings, mean) for mean in means]


class Gating:
    """Sets what a gate has to know of the batch that comes. ``gates`` may be set to others between two steps.

    Expert choice is told where sequences end: what a token gets then hangs on its own sequence alone. Random second
    experts are drawn by seed, layer and ``moment``.
    """

    def __init__(self, gates: Iterable[Gate | None], seed: int) -> None:
        self.gates = list(gates)
        self.moment: tuple[int, int] = (0, 0)
        """Of the batch that comes: the step, and its first sample."""
        self._seed = seed

    def watch(self, model: Model) -> None:
        """From now on, before every pass through a layer of the model."""
        for at, block in enumerate(moe_blocks(model)):
            block.register_forward_pre_hook(lambda block, given, at=at: self._set(at, block, given[1]))
            block.register_forward_hook(lambda block, given, gave, at=at: self._unset(at, block))

    def _set(self, at: int, block: Any, packed: Packed) -> None:
        gate = self.gates[at]
        if isinstance(gate, ExpertChoice):
            gate = replace(gate, lengths=tuple(packed.lengths.tolist()))
        elif isinstance(gate, RandomSecond):
            seed = np.random.SeedSequence([self._seed, at, *self.moment]).generate_state(1, np.uint64)[0]
            drawn = torch.Generator().manual_seed(int(seed >> np.uint64(1)))
            gate = replace(gate, draws=torch.rand(len(packed.sequence), generator=drawn))
        block.ffn.gate = gate

    def _unset(self, at: int, block: Any) -> None:
        block.ffn.gate = self.gates[at]
