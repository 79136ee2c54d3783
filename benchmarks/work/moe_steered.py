"""A training of a small language model whose thresholds are fixed or follow a target, kept when it is done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quiltwork.core.bench import Context
from quiltwork.core.errors import NotFoundError
from quiltwork.core.servable import Json
from work.moe_kept import Kept, digest_of_sources, training_sources, work_folder

CORPUS = "gutenberg_war_and_peace.txt"


@dataclass(frozen=True)
class Run:
    """What is kept of a training."""

    experts: tuple[float, ...]
    """Per token, of every step."""
    valid_loss: float
    """Nats per byte, at the end."""
    cpu_s: float


def steered(context: Context, seed: int, steps: int, changes: Mapping[str, Json]) -> Run:
    """Train, go on with, or only read again. The settings are those of ``quiltwork moe train`` but for ``changes``."""
    if context.data is None:
        raise NotFoundError("needs the corpus", where=CORPUS, hint="$QUILTWORK_DATA")
    kept = Kept(work_folder(context.scratch), digest_of_sources(training_sources()))
    config: dict[str, Json] = {"task": "lm", "steps": steps, "validate_every": steps, "validate_on": 256, **changes}
    told: dict[str, Json] = {**config, "arm": "controller", "seed": seed}
    found = kept.read(told)
    if found is None:
        folder = kept.folder(told)
        folder.mkdir(parents=True, exist_ok=True)
        config |= {"corpus": str(context.data / "moe" / "lm" / CORPUS), "out": str(folder / "model")}
        found = _trained(context, seed, config, folder)
        kept.write(told, found)
    experts, loss, cpu_s = found["experts"], found["valid_loss"], found["cpu_s"]
    assert isinstance(experts, list)
    assert isinstance(loss, float)
    assert isinstance(cpu_s, float)
    return Run(tuple(experts), loss, cpu_s)


def _trained(context: Context, seed: int, config: Mapping[str, Json], folder: Path) -> dict[str, Json]:
    """From its checkpoint on, if it was stopped."""
    import torch

    from quiltwork.core.checkpoint import CheckpointFile
    from quiltwork.core.run_training import run_training
    from quiltwork.core.trainable import Setup, StepReport
    from quiltwork.moe.training.training import moe_trainable

    torch.set_num_threads(1)
    training = moe_trainable()
    training.setup(Setup(config, seed))
    lines = folder / "experts.jsonl"

    def tell(report: StepReport) -> None:
        context.progress(f"seed {seed}: step {report.done} of {report.total}")
        if "experts_per_token" in report.metrics:
            log.write(json.dumps([report.done, report.metrics["experts_per_token"]]) + "\n")
            log.flush()

    # A run that was stopped between two checkpoints tells some steps twice, and the same of them.
    with lines.open("a", encoding="utf-8") as log:
        run_training(training, CheckpointFile(folder / "state.safetensors"), every=100, stop=lambda: False, tell=tell)
    by_step = dict(json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines())
    last = training.course.curve[-1]
    experts = [by_step[step] for step in range(1, training.settings.steps + 1)]
    return {"experts": experts, "valid_loss": last["valid_loss"], "cpu_s": last["cpu_s"]}
