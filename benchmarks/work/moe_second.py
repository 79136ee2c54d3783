"""One trained top-2 model at inference: second experts where the gate asks for them, or for as many tokens by lot.

Thresholds are set on the validation part, for a wanted rate of second experts in each layer; everything is measured on
the test part. In every batch and layer the lot gives a second expert to as many tokens as the threshold gave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from quiltwork.core.bench import Outcome
from work.moe_paired import Estimate, block_means, mean_difference

if TYPE_CHECKING:
    from quiltwork.core.progress import Say
    from quiltwork.core.servable import Json

RATES = (0.1, 0.25, 0.5)
CLAIMED = 0.25
"""The rate that the claim is about; the others stand in the rows."""
DRAWS = 5
"""Lots, of whose losses the mean is taken."""
SIZE = 16
"""Windows of a batch."""
BLOCKS = 40
"""Stretches of the test text that are paired."""


@dataclass(frozen=True)
class Seconds:
    """Losses of each window of the test part, (n,), nats per token."""

    rate: float
    """Second experts per token that the threshold gave, all layers together."""
    by_layer: tuple[float, ...]
    chosen: npt.NDArray[np.float64]
    drawn: npt.NDArray[np.float64]

    @property
    def apart(self) -> Estimate:
        """What the lot's loss is above the threshold's, over windows."""
        return mean_difference(self.drawn.tolist(), self.chosen.tolist())


def seconds(model: Any, objective: Any, reading: str, rate: float, seed: int, say: Say) -> Seconds:
    """Both ways of a model whose gates are top-2. Its gates are as before when this returns."""
    from quiltwork.moe.models import moe_layers

    layers = moe_layers(model)
    before = [layer.gate for layer in layers]
    try:
        thresholds = thresholds_for(model, objective, layers, reading, rate)
        return _both(model, objective, layers, reading, thresholds, seed, say)
    finally:
        for layer, gate in zip(layers, before, strict=True):
            layer.gate = gate


def thresholds_for(model: Any, objective: Any, layers: Sequence[Any], reading: str, rate: float) -> list[float]:
    """Of each layer the threshold at which ``rate`` of the validation part's tokens have a second expert.

    A layer's is set with those of the layers before it in place.
    """
    from quiltwork.moe.gates import Adaptive, TopK, gaps_of

    for layer in layers:
        layer.gate = TopK(2)
    thresholds = []
    for at, layer in enumerate(layers):
        gaps = []
        for ids in _batches(objective.count("valid")):
            probabilities = _run(model, objective, "valid", ids).outcome.routed[at].routing.probabilities
            gaps.append(gaps_of(probabilities.topk(2, dim=-1).values, reading)[:, 1].numpy())
        thresholds.append(float(np.quantile(np.concatenate(gaps), rate)))
        layer.gate = Adaptive(thresholds[-1], reading=reading)
    return thresholds


def _both(
    model: Any, objective: Any, layers: Sequence[Any], reading: str, thresholds: Sequence[float], seed: int, say: Say
) -> Seconds:
    import torch

    from quiltwork.moe import Adaptive, RandomSecond

    draws = [torch.Generator().manual_seed(seed + draw) for draw in range(DRAWS)]
    chosen, drawn, counts, tokens = [], [], np.zeros(len(layers)), 0
    for ids in _batches(objective.count("test")):
        say(f"window {ids[0] + 1} of {objective.count('test')}")
        for layer, threshold in zip(layers, thresholds, strict=True):
            layer.gate = Adaptive(threshold, reading=reading)
        run = _run(model, objective, "test", ids)
        routings = [routed.routing for routed in run.outcome.routed]
        given = np.array([len(routing.token) - routing.tokens for routing in routings])
        chosen.append(run.losses.double().numpy())
        losses = np.zeros(len(ids))
        for draw in draws:
            for layer, count, routing in zip(layers, given, routings, strict=True):
                layer.gate = RandomSecond(count / routing.tokens, draws=draw)
            again = _run(model, objective, "test", ids)
            same = [len(routed.routing.token) - routed.routing.tokens for routed in again.outcome.routed]
            assert same == given.tolist(), "the lot is to give as many second experts as the threshold"
            losses += again.losses.double().numpy() / DRAWS
        drawn.append(losses)
        counts, tokens = counts + given, tokens + routings[0].tokens
    by_layer = tuple((counts / tokens).tolist())
    return Seconds(float(np.mean(by_layer)), by_layer, np.concatenate(chosen), np.concatenate(drawn))


def fixed(model: Any, objective: Any, k: int) -> float:
    """The test loss with ``k`` experts for every token."""
    from quiltwork.moe.gates import TopK
    from quiltwork.moe.models import moe_layers

    layers = moe_layers(model)
    before = [layer.gate for layer in layers]
    for layer in layers:
        layer.gate = TopK(k)
    found = [_run(model, objective, "test", ids).losses.double().numpy() for ids in _batches(objective.count("test"))]
    for layer, gate in zip(layers, before, strict=True):
        layer.gate = gate
    return float(np.concatenate(found).mean())


def _run(model: Any, objective: Any, part: str, ids: npt.NDArray[np.int64]) -> Any:
    import torch

    with torch.no_grad():
        return objective.run(model, part, ids)


def _batches(count: int) -> list[npt.NDArray[np.int64]]:
    return [np.arange(start, min(start + SIZE, count)) for start in range(0, count, SIZE)]


def outcome_of(found: Seconds) -> Outcome:
    """Blocks of the test text, each with the threshold's loss as a part of the lot's."""
    ours, lot = block_means(found.chosen, BLOCKS), block_means(found.drawn, BLOCKS)
    details: dict[str, Json] = {"second experts per token": round(found.rate, 4), "draws": DRAWS, "blocks": BLOCKS,
                                "by layer": [round(rate, 4) for rate in found.by_layer]}  # fmt: skip
    return Outcome([a / b for a, b in zip(ours, lot, strict=True)], [1.0] * BLOCKS, details=details)
