"""A checkpoint's thresholds found on one part of a held-out text, and verified on the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.core.progress import Say, ignore
from quiltwork.core.servable import Json
from quiltwork.moe.checkpoints.calibration import (
    SEARCHES,
    Floats,
    Measured,
    Point,
    Settings,
    best,
    frontier,
    meter,
)
from quiltwork.moe.checkpoints.held_out import Part
from quiltwork.moe.checkpoints.mixtral_folder import most_of
from quiltwork.moe.checkpoints.sparse_block import record_routing, set_gates, sparse_blocks
from quiltwork.moe.checkpoints.thresholds import Thresholds
from quiltwork.moe.gate import first
from quiltwork.moe.gates import READINGS, Adaptive, gaps_of
from quiltwork.moe.routing import Routing

Figures = Mapping[str, Json]


@dataclass(frozen=True)
class Calibration:
    """What was found."""

    thresholds: Thresholds
    chosen: Point
    """On the calibration part."""
    verified: Point
    """The same thresholds on the verification part."""
    frontier: tuple[Point, ...]
    """On the calibration part, fewest experts first."""
    flops: tuple[float, ...]
    """Of a token's products with weights, for each point of the frontier."""
    full_flops: float
    passes: int
    """How often the calibration part was run through the model."""
    most_rise: float

    @property
    def holds(self) -> bool:
        """Whether the loss rises by no more than it may on the verification part, too."""
        return self.verified.rise <= self.most_rise


def calibrate(
    model: Any, parts: tuple[Part, Part], most_rise: float = 0.01, *, most: int | None = None,
    reading: str = "softmax", method: str = "common", batch: int = 8, say: Say = ignore,
) -> Calibration:  # fmt: skip
    """Find a threshold for each sparse layer of a causal language model.

    Parameters
    ----------
    model : as ``load_moe`` gives it. Its gates are changed, and at the end those that were found.
    parts : to choose by, and to verify on (``held_out``).
    most_rise : of the loss on the calibration part, as a share of it: 0.01 is 1 %.
    most : experts of a token at most; those that the model takes now where None. "All experts" means these.
    method : ``common`` or ``greedy``, how the layers' thresholds are searched.
    batch : windows that are run at once.

    Raises BadInputError for a number that makes no sense, UnsupportedError for what is no causal language model.
    """
    blocks = sparse_blocks(model)
    _check(model, most_rise, reading, method, batch)
    first_block = next(iter(blocks.values()))
    most = max(most_of(block.layer.gate) or 1 for block in blocks.values()) if most is None else most
    if not 2 <= most <= first_block.layer.experts.count:
        count = first_block.layer.experts.count
        raise BadInputError(f"{most} of {count} experts for each token leave nothing to choose", where="most")
    weights = first_block.weights
    shape = Adaptive(0.0, most, reading, weights)
    passes = 0

    def run(part: Part, settings: Settings) -> Measured:
        gates = {i: dataclasses.replace(shape, threshold=t) for i, t in zip(blocks, settings, strict=True)}
        set_gates(model, gates, weights=weights)
        return measure_part(model, part, batch)

    def on_calibration(settings: Settings) -> Measured:
        nonlocal passes
        passes += 1
        say(f"pass {passes} over the calibration part")
        return run(parts[0], settings)

    say("recording the gaps between experts")
    set_gates(model, dataclasses.replace(shape, threshold=1.0), weights=weights)
    gaps = record_gaps(model, parts[0], batch, most, reading)
    measure = meter(on_calibration, len(blocks))
    points = SEARCHES[method](measure, gaps, most_rise)
    chosen = best(points, most_rise)
    say("verifying on the other part")
    verified = meter(lambda settings: run(parts[1], settings), len(blocks))(chosen.thresholds)
    kept = frontier(points)
    found = Thresholds(dict(zip(blocks, chosen.thresholds, strict=True)), most, reading, weights)
    set_gates(model, found.gates(), weights=weights)
    flops = tuple(flops_per_token(model, point.experts) for point in kept)
    full = flops_per_token(model, (float(most),) * len(blocks))
    made = Calibration(found, chosen, verified, tuple(kept), flops, full, passes, most_rise)
    return dataclasses.replace(made, thresholds=dataclasses.replace(found, figures=figures(made, parts)))


def _check(model: Any, most_rise: float, reading: str, method: str, batch: int) -> None:
    if not 0 <= most_rise <= 1:
        raise BadInputError(f"must be 0 to 1 (100 %), not {most_rise}", where="the loss's rise")
    if method not in SEARCHES:
        raise BadInputError(f"{method!r} is no search", where="method", hint=", ".join(SEARCHES))
    if reading not in READINGS:
        raise BadInputError(f"{reading!r} is no reading", where="reading", hint=", ".join(READINGS))
    if batch < 1:
        raise BadInputError("must be at least 1", where="batch")
    if not type(model).__name__.endswith(("ForCausalLM", "LMHeadModel")):
        raise UnsupportedError("is no causal language model", where=type(model).__name__)


@torch.no_grad()
def measure_part(model: Any, part: Part, batch: int) -> Measured:
    """The loss of each window, and the experts of each layer. Raises BadInputError where a loss is not finite."""
    losses: list[Tensor] = []
    routed: dict[int, float] = dict.fromkeys(sparse_blocks(model), 0.0)
    for windows in torch.split(part.windows, batch):
        ids = windows.to(model.device)
        with record_routing(model) as routings:
            logits: Tensor = model(ids, use_cache=False).logits[:, :-1].float()
        each = nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        losses.append(each.mean(1).cpu())
        for index, found in routings.items():
            routed[index] += sum(len(routing.token) for routing in found)
    all_losses = torch.cat(losses)
    if not bool(all_losses.isfinite().all()):
        raise BadInputError("the model's loss is not finite", where=part.name)
    total = part.windows.numel()
    return Measured(all_losses.double().numpy(), tuple(count / total for count in routed.values()))


@torch.no_grad()
def record_gaps(model: Any, part: Part, batch: int, most: int, reading: str) -> list[Floats]:
    """Of each layer the gaps R_1 - R_m of all tokens and 1 < m <= ``most``, ascending, as the model is gated now."""
    found: dict[int, list[Floats]] = {index: [] for index in sparse_blocks(model)}
    for windows in torch.split(part.windows, batch):
        with record_routing(model) as routings:
            model(windows.to(model.device), use_cache=False)
        for index, each in routings.items():
            found[index] += [_gaps(routing, most, reading) for routing in each]
    return [np.sort(np.concatenate(each)) for each in found.values()]


def _gaps(routing: Routing, most: int, reading: str) -> Floats:
    gaps: Floats = gaps_of(first(routing.probabilities, most)[0], reading)[:, 1:].flatten().cpu().numpy()
    return gaps


def flops_per_token(model: Any, experts: Sequence[float]) -> float:
    """Multiplications and additions of a token's products with weights; those of attention with keys are not in it.

    experts : per token, of each sparse layer.
    """
    blocks = sparse_blocks(model)
    inside = {id(p) for block in blocks.values() for p in block.layer.experts.parameters()}
    routers = {id(block.layer.router) for block in blocks.values()}
    lookups = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    head = model.get_output_embeddings()
    weights: float = sum(
        p.numel() for p in model.parameters()
        if p.ndim == 2 and id(p) not in inside and (id(p) in routers or id(p) not in lookups)
    )  # fmt: skip
    if head is not None and id(head.weight) in lookups:
        weights += head.weight.numel()  # tied: looked up without a product, but multiplied with at the end
    for block, count in zip(blocks.values(), experts, strict=True):
        matrices = block.layer.experts
        weights += count * (matrices.up.numel() + matrices.down.numel()) / matrices.count
    return 2.0 * weights


def figures(made: Calibration, parts: tuple[Part, Part]) -> dict[str, Json]:
    """All of it as JSON."""
    return {
        "max_loss": made.most_rise,
        "holds": made.holds,
        "passes": made.passes,
        "full": {"experts": made.thresholds.most, "flops_per_token": made.full_flops},
        "calibration": _told(made.chosen) | _of(parts[0]),
        "verification": _told(made.verified) | _of(parts[1]),
        "frontier": [
            _told(point) | {"flops_per_token": flops} for point, flops in zip(made.frontier, made.flops, strict=True)
        ],
    }


def _told(point: Point) -> dict[str, Json]:
    return {
        "experts": point.mean,
        "loss": point.loss,
        "rise": point.rise,
        "highest_rise": point.highest,
        "experts_by_layer": list(point.experts),
        "thresholds": list(point.thresholds),
    }


def _of(part: Part) -> dict[str, Json]:
    return {"part": part.name, "text": part.source, "windows": len(part.windows), "length": part.windows.shape[1]}
