"""One training from its first step to its figures: a curve, what each step took, and the test data at the end."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from quiltwork.core.progress import Say, ignore
from work.moe_arms import RANDOM2, TOP2, Run

if TYPE_CHECKING:
    from quiltwork.core.servable import Json

FIRST = 20
"""Steps whose losses are kept, to tell by them whether other sources do the same."""
WEIGHTS = "weights.safetensors"
SCORES = {"bits": ("bits_per_byte", 1.0), "accuracy": ("accuracy", 100.0), "bleu": ("bleu", 1.0)}
"""By a task's metric what the room calls it, and what makes it a figure of 100."""
Rates = Sequence[float]
"""Of each layer: experts per token in one step."""


@dataclass
class _Best:
    """The model with the least validation loss so far."""

    loss: float = float("inf")
    step: int = 0
    weights: Mapping[str, Any] | None = None
    gates: Sequence[Any] = ()
    """Of its layers, with the thresholds that a controller had come to."""


def begun(run: Run, data: Path, out: Path, *, validates: bool = True) -> Any:
    """The room's trainable, set up for this run."""
    from quiltwork.core.trainable import Setup
    from quiltwork.moe.training.training import MoETraining

    config: dict[str, Json] = {
        "out": str(out),
        **{part: [str(data / "moe" / name) for name in names] for part, names in run.task.files.items()},
        **run.config(),
        # One more than are taken: what it does at its end is done here, for two models.
        "steps": run.steps + 1,
    }
    if not validates:
        config["validate_every"] = run.steps + 1
    training = MoETraining()
    training.setup(Setup(config, run.seed))
    return training


def train(run: Run, data: Path, folder: Path, matched: Sequence[Rates] = (), say: Say = ignore) -> dict[str, Json]:
    """Do a run and return what is to be kept of it; a top-2 run leaves its weights in ``folder``.

    matched : for random second experts, of the run that they are held against: its experts per token.
    """
    import torch

    torch.set_num_threads(1)
    training = begun(run, data, folder / "result")
    losses: list[float] = []
    experts: list[list[float]] = []
    loads = [os.getloadavg()[0]]
    equal, best = _Best(), _Best()
    for step in range(1, run.steps + 1):
        if run.arm == RANDOM2:
            give_by_lot(training, matched[min(step, len(matched)) - 1])
        metrics = training.step().metrics
        losses.append(metrics["loss"])
        experts.append(experts_of(metrics))
        if "valid_loss" in metrics:
            loads.append(os.getloadavg()[0])
            say(f"step {step} of {run.steps}: {metrics['valid_loss']:.4f}")
            if not run.tuning:
                for kept in (equal, best) if step <= run.task.steps else (best,):
                    _keep(kept, training, metrics["valid_loss"], step)
    curve = training.course.curve
    return {
        "curve": {"steps": [p["step"] for p in curve], "losses": [p["valid_loss"] for p in curve]},
        "cpu_s": [p["cpu_s"] for p in curve],
        "flops": [p["flops"] for p in curve],
        "experts_per_token": [[round(k, 4) for k in step] for step in experts],
        "first_losses": losses[:FIRST],
        "expert_share": training.expert_share(),
        "load": fmean(loads),
        "tests": {} if run.tuning else _tests(run, training, equal, best, folder),
        "best_step": {"equal_steps": equal.step, "all_steps": best.step},
        "samples": {part: training.objective.count(part) for part in ("train", "valid", "test")},
    }


def _keep(kept: _Best, training: Any, loss: float, step: int) -> None:
    if loss < kept.loss:
        weights = {name: value.detach().clone() for name, value in training.model.state_dict().items()}
        kept.loss, kept.step, kept.weights, kept.gates = loss, step, weights, tuple(training.gating.gates)


def _tests(run: Run, training: Any, equal: _Best, best: _Best, folder: Path) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for name, kept in (("equal_steps", equal), ("all_steps", best)):
        if name == "all_steps" and kept.step == equal.step:
            found[name] = found["equal_steps"]
            continue
        training.model.load_state_dict(kept.weights)
        training.gating.gates[:] = kept.gates
        found[name] = score(run, training)
        if name == "equal_steps" and run.arm == TOP2:
            _save(training.model, folder / WEIGHTS)
    return found


def score(run: Run, training: Any) -> float:
    """The task's metric on the test data."""
    told, times = SCORES[run.task.metric]
    training.gating.moment = (0, 0)
    scores = training.objective.scores(training.model, "test", 32)
    return float(scores[told]) * times


def _save(model: Any, path: Path) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)


def give_by_lot(training: Any, experts_per_token: Rates) -> None:
    """Let each layer have so many second experts from now on, for tokens that are drawn."""
    from quiltwork.moe import RandomSecond

    training.gating.gates[:] = [
        RandomSecond(min(max(k - 1, 0.0), 1.0), weights=training.settings.weights) for k in experts_per_token
    ]


def experts_of(metrics: Mapping[str, float]) -> list[float]:
    """Of each layer; of a dense model one 0."""
    found = []
    while (name := f"experts_per_token/{len(found)}") in metrics:
        found.append(metrics[name])
    return found or [0.0]
