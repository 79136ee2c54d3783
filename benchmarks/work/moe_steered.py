"""A training of a small language model whose thresholds are fixed or follow a target, kept when it is done."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from quiltwork.core.bench import Context
from quiltwork.core.checkpoint import CheckpointFile
from quiltwork.core.errors import NotFoundError
from quiltwork.core.run_training import run_training
from quiltwork.core.servable import Json
from quiltwork.core.trainable import Setup, StepReport
from quiltwork.moe.training.training import moe_trainable
from work.collection import KEEP

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
    config: dict[str, Json] = {"task": "lm", "steps": steps, "validate_every": steps, "validate_on": 256, **changes}
    named = hashlib.blake2b(json.dumps([seed, config], sort_keys=True).encode(), digest_size=8).hexdigest()
    folder = Path(os.environ.get(KEEP) or context.scratch) / "moe-controller" / named
    kept = folder / "run.json"
    if kept.exists():
        told = json.loads(kept.read_text(encoding="utf-8"))
        return Run(tuple(told["experts"]), told["valid_loss"], told["cpu_s"])
    folder.mkdir(parents=True, exist_ok=True)
    config |= {"corpus": str(context.data / "moe" / "lm" / CORPUS), "out": str(folder / "model")}
    training = moe_trainable()
    training.setup(Setup(config, seed))
    # One line for each step: a run that was stopped between two checkpoints tells some of them twice, the same.
    log = (folder / "experts.jsonl").open("a", encoding="utf-8")

    def tell(report: StepReport) -> None:
        context.progress(f"seed {seed}, {dict(changes)}: step {report.done} of {steps}")
        if "experts_per_token" in report.metrics:
            log.write(json.dumps([report.done, report.metrics["experts_per_token"]]) + "\n")
            log.flush()

    with log:
        run_training(training, CheckpointFile(folder / "state.safetensors"), every=100, stop=lambda: False, tell=tell)
    lines = (folder / "experts.jsonl").read_text(encoding="utf-8").splitlines()
    by_step = dict(json.loads(line) for line in lines)
    last = training.course.curve[-1]
    done = Run(tuple(by_step[step] for step in range(1, steps + 1)), last["valid_loss"], last["cpu_s"])
    kept.with_suffix(".part").write_text(json.dumps(asdict(done)), encoding="utf-8")
    kept.with_suffix(".part").replace(kept)
    return done
