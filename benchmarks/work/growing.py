"""A job whose workers become more and fewer: one model and one optimiser, and a line for every optimiser step.

Whoever runs it (``Growing`` for us, the loop of ``work.growing_ray`` for Ray Train) computes the same: a network of 10
million parameters, cross-entropy over a batch that is dealt out to the workers, Adam.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import IO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from quiltwork.core.sample_order import SampleOrder
from quiltwork.core.trainable import Gradients, Setup, State, StepReport

INPUTS, CLASSES, SAMPLES = 256, 64, 4096
WIDTH, SMALL = 2176, 64
"""Of the hidden layers: 10.2 million parameters, and some thousands for a quick look."""
BATCH, RATE = 12, 1e-3
"""Samples of a step, of all workers together."""


def network(width: int, seed: int) -> nn.Module:
    """The same weights wherever it is made."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(INPUTS, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, CLASSES),
    )  # fmt: skip


def adam(model: nn.Module) -> torch.optim.Adam:
    """The optimiser of both sides."""
    return torch.optim.Adam(model.parameters(), lr=RATE, fused=True)


class Samples:
    """What is learnt: (SAMPLES, INPUTS) float32 and a class for each, in an order that hangs on the seed."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._x = torch.from_numpy(rng.normal(size=(SAMPLES, INPUTS)).astype(np.float32))
        self._y = torch.from_numpy(rng.integers(0, CLASSES, SAMPLES))
        self._order = SampleOrder(SAMPLES, seed)

    def ids(self, done: int) -> npt.NDArray[np.int64]:
        """Of the step after ``done`` steps, for all workers."""
        return self._order.ids(done * BATCH, BATCH)

    def loss(self, model: nn.Module, ids: npt.NDArray[np.int64]) -> Tensor:
        """Mean over these samples."""
        at = torch.from_numpy(ids)
        return nn.functional.cross_entropy(model(self._x[at]), self._y[at])


# --- what was done when ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """An optimiser step that a process has taken. at : seconds of the machine's monotonic clock."""

    at: float
    done: int
    workers: int
    pid: int


class Notes:
    """Appends to this process's own file in a folder."""

    def __init__(self, folder: str | Path) -> None:
        self._file: IO[bytes] = (Path(folder) / f"steps-{os.getpid()}").open("ab", buffering=0)

    def add(self, done: int, workers: int) -> None:
        """A step was taken just now."""
        self._file.write(f"{time.monotonic():.6f} {done} {workers}\n".encode())


def read_notes(folder: Path) -> list[Step]:
    """Of all processes, in the order of time. A last line that is not whole is left out."""
    found = []
    for path in folder.glob("steps-*"):
        pid = int(path.name.removeprefix("steps-"))
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                at, done, workers = line.split()
                found.append(Step(float(at), int(done), int(workers), pid))
    return sorted(found, key=lambda step: step.at)


@dataclass(frozen=True)
class Change:
    """What a change of the number of workers cost.

    pause_s : the longest time between two optimiser steps from when the change was asked for; a step counts as taken
    when the last worker has. noticed_s : from then until the pause began. step_s : median time between two steps
    before. survivors : processes that were there before and after. again : steps that were taken a second time.
    """

    pause_s: float
    noticed_s: float
    step_s: float
    survivors: int
    again: int


def taken(steps: Iterable[Step]) -> dict[tuple[int, int], float]:
    """By workers and step: when the last worker had taken it."""
    found: dict[tuple[int, int], float] = {}
    for step in steps:
        key = step.workers, step.done
        found[key] = max(step.at, found.get(key, step.at))
    return found


def change(steps: Iterable[Step], asked: float, before: int, after: int) -> Change:
    """steps : up to some that were taken with ``after`` workers. asked : when that number was asked for."""
    steps = list(steps)
    at = sorted(taken(steps).values())
    begun = max((time for time in at if time <= asked), default=at[0])
    gaps = [(b - a, a) for a, b in pairwise(at) if a >= begun]
    pause_s, since = max(gaps)
    usual = [b - a for a, b in pairwise(at) if b <= asked][-30:]
    old = [step for step in steps if step.workers == before and step.at >= begun - 1]
    new = [step for step in steps if step.workers == after and step.at > asked]
    last, first = max(step.done for step in old), min(step.done for step in new)
    survivors = {step.pid for step in old} & {step.pid for step in new}
    return Change(pause_s, max(since - asked, 0.0), median(usual), len(survivors), max(last - first + 1, 0))


# --- for our elastic trainer -------------------------------------------------------------------------------------


class Growing:
    """``Elastic``. config: ``notes``, the folder of its lines; ``width``."""

    def setup(self, setup: Setup) -> None:
        """As ``Trainable`` says."""
        torch.set_num_threads(1)
        self._model = network(_whole(setup.config, "width"), setup.seed)
        self._names = [name for name, _ in self._model.named_parameters()]
        self._optimizer = adam(self._model)
        self._samples = Samples(setup.seed)
        self._notes = Notes(str(setup.config["notes"]))
        self._done, self._workers = 0, 1

    def next_samples(self) -> npt.NDArray[np.int64]:
        """As ``Elastic`` says."""
        return self._samples.ids(self._done)

    def gradients(self, sample_ids: npt.NDArray[np.int64]) -> Gradients:
        """As ``Elastic`` says."""
        self._optimizer.zero_grad()
        loss = self._samples.loss(self._model, sample_ids)
        loss.backward()  # type: ignore[no-untyped-call]
        arrays = {name: p.grad.numpy() for name, p in self._model.named_parameters() if p.grad is not None}
        return Gradients(arrays, len(sample_ids), {"loss": loss.item()})

    def apply(self, mean: Gradients) -> StepReport:
        """As ``Elastic`` says."""
        for name, p in self._model.named_parameters():
            p.grad = torch.from_numpy(mean.arrays[name])
        self._optimizer.step()
        self._done += 1
        self._notes.add(self._done, self._workers)
        return StepReport(self._done, None, False, mean.metrics)

    def step(self) -> StepReport:
        """As ``Trainable`` says."""
        return self.apply(self.gradients(self.next_samples()))

    def resize(self, rank: int, workers: int) -> None:
        """As ``Elastic`` says."""
        self._workers = workers

    def state_dict(self) -> State:
        """As ``Trainable`` says."""
        arrays = {f"p.{name}": p.detach().numpy().copy() for name, p in self._model.named_parameters()}
        for name, p in self._model.named_parameters():
            kept = self._optimizer.state.get(p)
            if kept:
                arrays |= {f"{key}.{name}": kept[key].numpy().copy() for key in ("exp_avg", "exp_avg_sq")}
        return State(arrays, {"done": self._done})

    def load_state_dict(self, state: State) -> None:
        """As ``Trainable`` says."""
        self._done = _whole(state.meta, "done")
        with torch.no_grad():
            for name, p in self._model.named_parameters():
                p.copy_(torch.from_numpy(state.arrays[f"p.{name}"]))
                if f"exp_avg.{name}" in state.arrays:
                    moments = {
                        key: torch.from_numpy(state.arrays[f"{key}.{name}"]) for key in ("exp_avg", "exp_avg_sq")
                    }
                    self._optimizer.state[p] = {"step": torch.tensor(float(self._done)), **moments}


def _whole(fields: Mapping[str, object], name: str) -> int:
    return int(str(fields[name]))
