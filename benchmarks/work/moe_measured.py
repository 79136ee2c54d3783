"""What the studies measure when they are run: the cost of a step, and one trained model at inference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quiltwork.core.bench import Context
from work.moe_arms import TOP2, Run, Task, of_arm
from work.moe_curves import StepCost
from work.moe_run import WEIGHTS, begun, experts_of
from work.moe_second import CLAIMED, RATES, Seconds, fixed, seconds
from work.moe_step_cost import Step, measured, step_costs

if TYPE_CHECKING:
    from quiltwork.core.servable import Json

ROUNDS, QUICK_ROUNDS = 15, 3


def costs_of(task: Task, rates: Mapping[str, float], gate: Mapping[str, Json], context: Context) -> dict[str, StepCost]:
    """CPU-seconds of a step of each of the task's arms, all trainings of which are held at once."""
    import torch

    assert context.data is not None
    torch.set_num_threads(1)
    data, out = context.data, context.scratch / "costs" / task.name
    trainings = {arm: begun(of_arm(task, arm, 0, rates, gate), data, out / arm, validates=False) for arm in task.arms}
    context.progress(f"{task.name}: what a step costs")
    steps: dict[str, Step] = {arm: _stepping(training) for arm, training in trainings.items()}
    return step_costs(measured(steps, context, QUICK_ROUNDS if context.quick else ROUNDS))


def _stepping(training: Any) -> Step:
    # Before its first step a training takes its validation loss, which is no part of a step.
    training.step()
    return lambda: float(np.mean(experts_of(training.step().metrics)))


def second_experts(run: Run, folder: Path, reading: str, context: Context) -> tuple[Seconds, list[Mapping[str, Json]]]:
    """Of the top-2 model that ``run`` left in ``folder``: at the claimed rate, and rows of all rates."""
    from safetensors.torch import load_file

    from quiltwork.moe.gates import TopK
    from quiltwork.moe.models import build_model

    assert run.arm == TOP2
    assert context.data is not None
    training = begun(run, context.data, context.scratch / "second", validates=False)
    shape = training.model.shape
    model = build_model(str(run.task.settings["task"]), shape, [TopK(2)] * shape.layers, run.seed)
    model.load_state_dict(load_file(folder / WEIGHTS))
    one, two = fixed(model, training.objective, 1), fixed(model, training.objective, 2)
    found = {rate: seconds(model, training.objective, reading, rate, context.seed, context.progress) for rate in RATES}
    rows: list[Mapping[str, Json]] = [
        {
            "table": "random-second",
            "model": "trained top-2, at inference",
            "pairs": f"{len(each.chosen)} windows",
            "experts per token": round(1 + each.rate, 3),
            "of the random": round(1 + each.rate, 3),
            "ours": round(float(each.chosen.mean()), 4),
            "random": round(float(each.drawn.mean()), 4),
            "top-1": round(one, 4),
            "top-2": round(two, 4),
            "random's loss - ours": f"{each.apart.value:.4f} [{each.apart.low:.4f}, {each.apart.high:.4f}]",
        }
        for each in found.values()
    ]
    return found[CLAIMED], rows
