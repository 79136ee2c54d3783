"""One trained model with other gates: what each costs, and how well the model does with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.core.progress import Say, ignore
from quiltwork.layers.descent import device_named
from quiltwork.moe.control.levels import Numbers
from quiltwork.moe.control.steering import count, most_of, reach
from quiltwork.moe.flops import Flops, forward_flops
from quiltwork.moe.gate import Gate
from quiltwork.moe.gates import Adaptive, TopK
from quiltwork.moe.layer import MoELayer
from quiltwork.moe.models import Model, moe_layers
from quiltwork.moe.training.objective import TEST, VALID, Objective
from quiltwork.moe.training.result import read_result, reading_again
from quiltwork.moe.training.training import objective_of

AS_TRAINED, ADAPTIVE = "trained", "adaptive"
_CALIBRATED = 64
"""Samples of the validation part that a target of experts is set on, evenly taken."""


@dataclass(frozen=True)
class Mode:
    """How many experts are taken at inference. Just one field says it; none: as in training."""

    name: str
    top: int | None = None
    threshold: float | None = None
    experts: float | None = None
    adaptive: bool = False
    """By the thresholds that it was trained with; where it has none, by the paper's."""


def mode_of(told: str) -> Mode:
    """``trained``, ``adaptive``, ``topN``, ``T=0.2`` (a threshold) or ``k=1.3`` (experts per token). Raises
    BadInputError."""
    name, equals, value = told.strip().partition("=")
    if told.strip() in (AS_TRAINED, ADAPTIVE):
        return Mode(told.strip(), adaptive=told.strip() == ADAPTIVE)
    if not equals and name.startswith("top") and name[3:].isascii() and name[3:].isdigit() and int(name[3:][:6]) > 0:
        return Mode(name, top=int(name[3:][:6]))
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if name not in ("T", "k") or not math.isfinite(number):
        hint = "trained, adaptive, top1, top2, T=0.2 for a threshold, k=1.3 for experts per token"
        raise BadInputError(f"{told[:40]!r} is no way to take experts", where="experts", hint=hint)
    return Mode(told.strip(), threshold=number) if name == "T" else Mode(told.strip(), experts=number)


@dataclass(frozen=True)
class Evaluated:
    """One mode."""

    mode: str
    scores: Mapping[str, float]
    """Of the task: loss, and bits per byte, accuracy or BLEU."""
    experts: tuple[float, ...]
    """(L,) per token."""
    thresholds: tuple[float | None, ...]
    """(L,); None where a gate has none."""
    flops: float
    """Of a token, forward."""
    expert_flops: float

    @property
    def mean(self) -> float:
        """Experts per token over layers."""
        return math.fsum(self.experts) / len(self.experts)


def evaluate(
    model: Model, gates: list[Gate | None], objective: Objective, part: str, modes: Sequence[Mode], *, size: int,
    say: Say = ignore,
) -> list[Evaluated]:  # fmt: skip
    """Each mode on the same part, ``size`` samples at once; the model's gates are then as they were.

    gates : of its layers, which it takes from this list (``Gating``). Raises BadInputError for a model without experts,
    and for a mode that its experts cannot take.
    """
    layers = moe_layers(model)
    if not layers:
        raise BadInputError("has no layer of experts", where="model")
    was, found = list(gates), []
    try:
        for mode in modes:
            say(mode.name)
            gates[:] = [_gate(mode, gate, layer) for gate, layer in zip(was, layers, strict=True)]
            if mode.experts is not None:
                most = min(most_of(gate, layers[0].experts.count) for gate in gates if gate is not None)
                places = np.arange(_CALIBRATED) * objective.count(VALID) // _CALIBRATED
                reach(gates, mode.experts, most, partial(_tally, model, gates, objective, np.unique(places), size))
            found.append(_evaluated(mode.name, model, gates, objective, part, size))
    finally:
        gates[:] = was
    return found


def _gate(mode: Mode, was: Gate | None, layer: MoELayer) -> Gate:
    """The mode's, in place of that which was trained. Raises BadInputError where the experts are too few."""
    weights = str(getattr(was, "weights", "sum_to_one"))
    gate: Gate
    if mode.top is not None:
        gate = TopK(mode.top, weights)
    elif mode.threshold is None and mode.experts is None and not mode.adaptive:
        assert was is not None
        return was
    else:
        gate = was if isinstance(was, Adaptive) else Adaptive(most=2, weights=weights)
        gate = gate if mode.threshold is None else replace(gate, threshold=mode.threshold)
    if (reads := gate.width(layer.experts.count)) != len(layer.router):
        what = f"the router knows {len(layer.router)} experts, this gate {reads}"
        raise UnsupportedError(what, where="experts", hint="trained is all that null experts can do")
    return gate


@torch.no_grad()
def _tally(
    model: Model, gates: Sequence[Gate | None], objective: Objective, places: np.ndarray, size: int
) -> Numbers:  # fmt: skip
    total: Numbers | None = None
    for start in range(0, len(places), size):
        run = objective.run(model, VALID, places[start : start + size])
        counted = count(gates, [of.routing for of in run.outcome.routed])
        total = counted if total is None else total + counted
    assert total is not None
    return total


@torch.no_grad()
def _evaluated(
    name: str, model: Model, gates: Sequence[Gate | None], objective: Objective, part: str, size: int
) -> Evaluated:  # fmt: skip
    rows, passed = np.zeros(len(gates)), np.zeros(len(gates))
    flops, tokens = Flops(0, 0, 0, 0), 0
    for start in range(0, objective.count(part), size):
        ids = np.arange(start, min(start + size, objective.count(part)))
        run = objective.run(model, part, ids)
        taken = [len(of.routing.token) for of in run.outcome.routed]
        rows += taken
        passed += [of.routing.tokens for of in run.outcome.routed]
        flops += forward_flops(model, run.packed, taken)
        tokens += sum(len(side.sequence) for side in run.packed)
    scores = dict(objective.scores(model, part, size))
    thresholds = tuple(_threshold(gate) for gate in gates)
    experts = tuple((rows / passed).tolist())
    return Evaluated(name, scores, experts, thresholds, flops.total / tokens, flops.experts / tokens)


def _threshold(gate: Gate | None) -> float | None:
    found = getattr(gate, "threshold", getattr(gate, "p", None))
    return float(found) if isinstance(found, int | float) else None


def evaluate_result(
    folder: Path, modes: Sequence[Mode], *, part: str = TEST, device: str = "cpu", say: Say = ignore
) -> list[Evaluated]:
    """Of what ``quiltwork moe train`` left. Raises what reading it raises, and BadInputError for a changed corpus."""
    where = device_named(device)
    result = read_result(folder, where)
    with reading_again():
        objective = objective_of(result.settings, where)
    if objective.digest != result.report.get("corpus_digest"):
        raise BadInputError("the corpus is not the one that it was trained on", where=str(folder))
    size = result.settings.micro_batch or result.settings.batch
    return evaluate(result.model, result.gating.gates, objective, part, modes, size=size, say=say)
