"""Choosing before anything is reported: each arm's rate, and the gate's threshold and reading, by SST-5 alone.

``moe_choices.json`` holds what was chosen, with a digest of it; runs are told apart by the gate and the rate they have,
so that a later choice makes other runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quiltwork.core.errors import BadInputError
from work.moe_curves import StepCost, mean_curve, reached
from work.moe_kept import digest_of

if TYPE_CHECKING:
    from quiltwork.core.servable import Json
    from work.moe_found import Found

FILE = Path(__file__).with_name("moe_choices.json")
Gate = tuple[str, float]
"""A reading and a threshold."""


@dataclass(frozen=True)
class Judged:
    """How a gate did on SST-5."""

    gate: Gate
    work: float
    """FLOPs until top-2's least mean validation loss, of those top-2 took; of all steps where it never came there."""
    censored: bool
    least: float
    """Its own least mean validation loss."""


def judge_gates(top2: Sequence[Found], by_gate: Mapping[Gate, Sequence[Found]]) -> list[Judged]:
    """The best first: the least work to top-2's loss; behind them those that never reached it, by their own loss.

    Work is counted in FLOPs, not in time: it is the same on every machine.
    """
    share = top2[0].expert_share
    cost = StepCost(one=1 - share / 2, two=1.0)
    at, target = mean_curve([found.curve for found in top2]).least()
    judged = []
    for gate, runs in by_gate.items():
        curve = mean_curve([found.curve for found in runs])
        when = reached(curve, target)
        work = sum(found.spent(when.steps, cost) for found in runs) / len(runs) / at
        judged.append(Judged(gate, work, when.censored, curve.least()[1]))
    return sorted(judged, key=lambda one: (one.censored, one.least if one.censored else one.work, one.gate))


def best_rate(by_rate: Mapping[float, Found]) -> float:
    """The rate with the least validation loss. Raises BadInputError where there is none."""
    if not by_rate:
        raise BadInputError("no rate was tried", where="rates")
    return min(by_rate, key=lambda rate: (by_rate[rate].curve.least()[1], rate))


def frozen(choice: Mapping[str, Json]) -> dict[str, Json]:
    """With its digest, in the place of one that it had."""
    return {**choice, "digest": _digest(choice)}


def read_choices(path: Path = FILE) -> dict[str, Json]:
    """What was chosen. Raises BadInputError where it was changed by hand."""
    told: dict[str, Json] = json.loads(path.read_text(encoding="utf-8"))
    if told.get("digest") != _digest(told):
        raise BadInputError("was changed after it had been chosen", where=str(path))
    return told


def _digest(choice: Mapping[str, Json]) -> str:
    return digest_of({name: value for name, value in choice.items() if name != "digest"})
