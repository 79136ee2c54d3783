"""Short paced jobs for a small cluster: elastic ones, gangs of trainables that keep their size, and commands."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quiltwork.cluster.server import Pool, Server

GPU = "V100"
BATCH, SAMPLE_S = 12, 0.1
"""A step of one worker takes 1.2 s, of two 0.6 s, of three 0.4 s."""
COMMAND_STEP_S = 0.5
HERE = Path(__file__).resolve().parent
NEEDS = (0.9, 0.9, 0.6, 0.3, 0.1, 0.1, 0.1, 0.3, 0.5, 0.9, 1.0, 0.7, 0.4, 0.1, 0.0, 0.0, 0.4, 0.8)
"""What inference needs, round and round: it lends nearly all of its servers and wants nearly all back."""


@dataclass(frozen=True)
class PacedJob:
    """One job. at : seconds after the first. Without ``trainable`` it is a command of ``w_min`` processes."""

    name: str
    at: float
    trainable: bool
    w_min: int
    w_max: int
    steps: int
    fungible: bool

    @property
    def step_s(self) -> float:
        """Of its gang, as it was made to take."""
        return BATCH * SAMPLE_S / self.w_min if self.trainable else COMMAND_STEP_S

    def spec(self, folder: Path) -> str:
        """As it is submitted. folder : of what commands keep."""
        said: dict[str, object] = {
            "name": self.name,
            "workers": {"min": self.w_min, "max": self.w_max},
            "fungible": self.fungible,
            "est_duration": self.steps * self.step_s,
            "grace": 20,
        }
        if self.trainable:
            paths = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
            said |= {
                "trainable": "work.paced_training:PacedTraining",
                "config": {"steps": self.steps, "batch": BATCH, "sample_s": SAMPLE_S},
                "env": {"PYTHONPATH": os.pathsep.join(paths)},
            }
        else:
            program = str(HERE / "paced_command.py")
            argv = [sys.executable, "-S", program, str(self.steps), str(COMMAND_STEP_S), str(folder / self.name)]
            said |= {"command": argv}
        return json.dumps(said)


def paced_jobs(count: int, seed: str, every_s: float, shortest_s: float, longest_s: float) -> list[PacedJob]:
    """Jobs whose arrivals are Poisson, one in ``every_s`` on average, and that take their gangs ``shortest_s`` to
    ``longest_s``; the logarithm of that is uniform."""
    rng = random.Random(f"paced/{seed}")
    jobs, at = [], 0.0
    for i in range(count):
        seconds = shortest_s * (longest_s / shortest_s) ** rng.random()
        kind = rng.random()
        trainable = kind < 0.5
        w_min = rng.choice((1, 1, 2) if trainable else (1, 2, 2, 3, 4))
        w_max = w_min + rng.choice((1, 2)) if kind < 0.4 else w_min
        job = PacedJob(f"job{i}", at, trainable, w_min, w_max, 0, rng.random() < 0.5)
        jobs.append(PacedJob(job.name, at, trainable, w_min, w_max, max(3, round(seconds / job.step_s)), job.fungible))
        at += rng.expovariate(1 / every_s)
    return jobs


def servers_of(train: int, infer: int, gpus: int) -> list[Server]:
    """Training's servers and inference's, all of one type: a paced step takes as long everywhere."""
    made = [Server(f"train-{i}", GPU, gpus, Pool.TRAIN) for i in range(train)]
    return made + [Server(f"infer-{i}", GPU, gpus, Pool.INFER) for i in range(infer)]


def need_of(ticks: int, needs: Sequence[float] = NEEDS) -> list[float]:
    """What inference needs at so many decisions; the same need for two of them."""
    return [needs[i // 2 % len(needs)] for i in range(ticks)]
