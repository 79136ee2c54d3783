"""What a worker process is told when it is started: arguments, and the link's token in the environment."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quiltwork.cluster.elastic.course import FIXED_GLOBAL, FIXED_LOCAL, MODES
from quiltwork.cluster.elastic.rates import RULES
from quiltwork.cluster.spec import Batch, Checkpoint, LearningRate
from quiltwork.core.errors import BadInputError

TOKEN = "QUILTWORK_LINK_TOKEN"
"""The environment variable that holds the link's token; arguments can be seen by everybody on a machine."""
BACKENDS = ("gloo", "nccl")


@dataclass(frozen=True)
class WorkerSettings:
    """One worker of a job; all workers of a job have the same but for ``worker``, ``host``, ``device`` and files."""

    job: str
    worker: str
    """A name that no other process of this job has or had."""
    link: str
    """``host:port``."""
    trainable: str
    """``module:factory``; the factory takes no arguments."""
    config: str | None = None
    """A file with a JSON object, what the trainable is set up with."""
    seed: int = 0
    workdir: str | None = None
    device: str = "cpu"
    batch: Batch = Batch()  # noqa: RUF009  # frozen
    lr: LearningRate | None = None
    checkpoint: Checkpoint | None = None
    logical: int | None = None
    """Bit-identical mode: gradients are computed for so many parts of a step, however many workers there are."""
    backend: str = "gloo"
    host: str = "127.0.0.1"
    """Where other workers reach this one."""
    threads: int | None = None
    """Of computation; None leaves that to torch."""
    step_log: str | None = None
    """A file that gets a line for every step (``step_log``)."""
    orphan_s: float = 60.0
    """How long it goes on without a link before it saves what it has and ends."""
    connect_s: float = 20.0
    """How long workers may take to connect with each other."""
    collective_s: float = 1800.0
    """How long a worker waits for another one within a step."""

    def __post_init__(self) -> None:
        """Raises BadInputError where two settings exclude each other."""
        if self.logical is not None and self.logical < 1:
            raise BadInputError(f"{self.logical} is not a number of logical workers", where="logical")
        if self.logical is not None and self.batch.mode == FIXED_LOCAL:
            hint = f"with {FIXED_GLOBAL} every number of workers computes the same steps"
            raise BadInputError(f"cannot be bit-identical with {FIXED_LOCAL} batches", where="logical", hint=hint)

    def arguments(self) -> list[str]:
        """As arguments of ``python -m quiltwork.cluster.elastic.worker``."""
        named: dict[str, object] = {
            **{name: getattr(self, name) for name in (*_NEEDED, *_OPTIONAL)},
            "batch_mode": self.batch.mode,
            "batch_size": self.batch.size,
        }
        if self.lr is not None:
            named |= {"lr": self.lr.base, "lr_rule": self.lr.rule, "warmup_steps": self.lr.warmup_steps}
        if self.checkpoint is not None:
            named |= {"checkpoint": self.checkpoint.path, "checkpoint_interval": self.checkpoint.interval_s}
        given = [f"--{name.replace('_', '-')}={value}" for name, value in named.items() if value is not None]
        quiet = self.checkpoint is not None and not self.checkpoint.on_warning
        return [*given, "--no-checkpoint-on-warning"] if quiet else given

    def command(self) -> list[str]:
        """The command line that starts this worker; ``TOKEN`` has to be in its environment."""
        return [sys.executable, "-m", "quiltwork.cluster.elastic.worker", *self.arguments()]


_NEEDED = ("job", "worker", "link", "trainable")
_OPTIONAL: Mapping[str, tuple[type, str]] = {
    "config": (str, "file with a JSON object"),
    "seed": (int, "of everything random"),
    "workdir": (str, "folder that the trainable may write in"),
    "device": (str, "cpu, cuda, cuda:1"),
    "logical": (int, "bit-identical mode: parts that each step is computed in"),
    "backend": (str, " or ".join(BACKENDS)),
    "host": (str, "where other workers reach this one"),
    "threads": (int, "threads of computation"),
    "step_log": (str, "file that gets a line for every step"),
    "orphan_s": (float, "seconds to go on without a link"),
    "connect_s": (float, "seconds that workers may take to connect"),
    "collective_s": (float, "seconds that a worker waits for another one within a step"),
}


def read_arguments(arguments: Sequence[str]) -> WorkerSettings:
    """Settings from the command line; exits with 2 and a line where that is wrong. Raises BadInputError."""
    parser = argparse.ArgumentParser(prog="quiltwork.cluster.elastic.worker", allow_abbrev=False, description=__doc__)
    for name in _NEEDED:
        parser.add_argument(f"--{name}", required=True)
    for name, (kind, about) in _OPTIONAL.items():
        default = getattr(WorkerSettings, name)
        choices = BACKENDS if name == "backend" else None
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default, choices=choices, help=about)
    parser.add_argument("--batch-mode", choices=MODES, default=Batch.mode)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--lr", type=float, help="learning rate at the first batch size")
    parser.add_argument("--lr-rule", choices=RULES, default=LearningRate.rule)
    parser.add_argument("--warmup-steps", type=int, default=LearningRate.warmup_steps)
    parser.add_argument("--checkpoint", help="folder of checkpoints")
    parser.add_argument("--checkpoint-interval", type=float, help="seconds")
    parser.add_argument("--checkpoint-on-warning", action=argparse.BooleanOptionalAction, default=True)
    found = vars(parser.parse_args(list(arguments)))
    if found["lr"] is not None and not (math.isfinite(found["lr"]) and found["lr"] > 0):
        raise BadInputError(f"{found['lr']} is not a learning rate", where="--lr")
    rate = None if found["lr"] is None else LearningRate(found["lr"], found["lr_rule"], found["warmup_steps"])
    kept = None
    if found["checkpoint"] is not None:
        kept = Checkpoint(found["checkpoint"], found["checkpoint_interval"], found["checkpoint_on_warning"])
    batch = Batch(found["batch_mode"], found["batch_size"])
    return WorkerSettings(
        **{name: found[name] for name in (*_NEEDED, *_OPTIONAL)}, batch=batch, lr=rate, checkpoint=kept
    )
