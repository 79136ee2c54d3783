"""Small trainables for the elastic trainer: one on torch that is elastic, one whose steps cannot be shared."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import torch

from quiltwork.core.errors import BadInputError
from quiltwork.core.sample_order import SampleOrder
from quiltwork.core.trainable import Gradients, State, StepReport


def wait_if_held(config, folder, step):
    """In a step that is held up: say so through the pipe ``held``, and wait for the file that opens it. Who is held up
    can be seen by the files ``held-<step>-<pid>``."""
    if step not in config.get("hold", []) or (folder / f"open-{step}").exists():
        return
    (folder / f"held-{step}-{os.getpid()}").touch()
    with (folder / "held").open("w") as pipe:
        pipe.write(f"{step}\n")
    while not (folder / f"open-{step}").exists():
        time.sleep(0.003)


class TinyElastic:
    """Regression by a two-layer network, SGD with momentum; inputs are disturbed by sample and step. Elastic, Tunable.

    config: ``steps``, ``samples``, ``batch``, ``hidden``; ``hold``: steps in whose gradient each worker says so and
    waits until there is a file ``open-<step>`` in its folder (``steps`` itself: while it gives its last state);
    ``raise_at``: the step whose gradient fails. What it computed is noted in its folder, line by line: the step, the
    ids, the rate.
    """

    def setup(self, setup):
        config = setup.config
        if not isinstance(config.get("batch", 12), int):
            raise BadInputError("is not a number of samples", where="batch")
        self._config, self._folder = config, None if setup.workdir is None else Path(setup.workdir)
        torch.manual_seed(setup.seed)
        hidden = config.get("hidden", 5)
        self._model = torch.nn.Sequential(torch.nn.Linear(4, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 1))
        self._names = [name for name, _ in self._model.named_parameters()]
        self._velocity = {name: torch.zeros_like(p) for name, p in self._model.named_parameters()}
        rng = np.random.default_rng(setup.seed)
        samples = config.get("samples", 50)
        self._x = torch.from_numpy(rng.normal(size=(samples, 4)).astype(np.float32))
        self._y = torch.sin(self._x.sum(1, keepdim=True))
        self._order = SampleOrder(samples, setup.seed)
        self._steps, self._batch, self._rate = config.get("steps", 24), config.get("batch", 12), 0.05
        self._done = self._taken = 0
        self._mine = []

    def next_samples(self):
        return self._order.ids(self._taken, self._batch)

    def gradients(self, sample_ids):
        if self._done == self._config.get("raise_at"):
            raise ArithmeticError("the loss\nis not a number")
        wait_if_held(self._config, self._folder, self._done)
        ids = torch.from_numpy(sample_ids)
        disturbed = self._x[ids] + 0.1 * torch.sin(ids[:, None] * 12.9 + self._done * 78.2 + torch.arange(4))
        self._model.zero_grad()
        loss = ((self._model(disturbed) - self._y[ids]) ** 2).mean()
        loss.backward()
        self._mine.extend(sample_ids.tolist())
        arrays = {name: p.grad.numpy().copy() for name, p in self._model.named_parameters()}
        return Gradients(arrays, len(sample_ids), {"loss": loss.item()})

    def apply(self, mean):
        if self._done < self._steps:
            with torch.no_grad():
                for name, p in self._model.named_parameters():
                    self._velocity[name].mul_(0.9).add_(torch.from_numpy(np.array(mean.arrays[name])))
                    p -= self._rate * self._velocity[name]
            self._note(mean)
            self._taken += self._batch
            self._done += 1
        return StepReport(self._done, self._steps, self._done >= self._steps, mean.metrics)

    def _note(self, mean):
        if self._folder is not None:
            line = {"done": self._done, "ids": self._mine, "rate": self._rate, "batch": self._batch, **mean.metrics}
            with (self._folder / f"noted-{os.getpid()}").open("a") as file:
                file.write(json.dumps(line) + "\n")
        self._mine = []

    def step(self):
        return self.apply(self.gradients(self.next_samples()))

    def resize(self, rank, workers):
        self._mine = []  # what was computed for a step that was not taken, or to warm up

    def set_batch(self, samples):
        self._batch = samples

    def set_learning_rate(self, rate):
        self._rate = rate

    def state_dict(self):
        if self._done == self._steps and self._folder is not None:
            wait_if_held(self._config, self._folder, self._done)
        arrays = {f"p.{name}": p.detach().numpy().copy() for name, p in self._model.named_parameters()}
        arrays |= {f"v.{name}": v.numpy().copy() for name, v in self._velocity.items()}
        return State(arrays, {"done": self._done, "taken": self._taken})

    def load_state_dict(self, state):
        with torch.no_grad():
            for name, p in self._model.named_parameters():
                if state.arrays[f"p.{name}"].shape != p.shape:
                    raise BadInputError("has another shape", where=f"state: p.{name}")
                p.copy_(torch.from_numpy(state.arrays[f"p.{name}"]))
                self._velocity[name] = torch.from_numpy(state.arrays[f"v.{name}"].copy())
        self._done, self._taken = state.meta["done"], state.meta["taken"]
        self._mine = []


class TinyPlain:
    """A walk whose every step hangs on the one before; not elastic. config: ``steps``, ``hold``."""

    def setup(self, setup):
        self._rng = np.random.default_rng(setup.seed)
        self._at, self._done, self._steps = np.zeros(3), 0, setup.config.get("steps", 12)
        self._config, self._folder = setup.config, Path(setup.workdir or ".")

    def step(self):
        wait_if_held(self._config, self._folder, self._done)
        if self._done < self._steps:
            self._at = np.sin(self._at + self._rng.normal(size=3))
            self._done += 1
        return StepReport(self._done, self._steps, self._done >= self._steps, {"x": float(self._at[0])})

    def state_dict(self):
        return State({"at": self._at.copy()}, {"done": self._done, "rng": self._rng.bit_generator.state})

    def load_state_dict(self, state):
        self._at, self._done = state.arrays["at"].copy(), state.meta["done"]
        self._rng.bit_generator.state = state.meta["rng"]


def trained(steps, seed=3, kind=TinyElastic, **config):
    """The same without any trainer: reports of each step, and the state behind the last."""
    from quiltwork.core.trainable import Setup

    trainable = kind()
    trainable.setup(Setup({"steps": steps, **config}, seed))
    reports = [trainable.step() for _ in range(steps)]
    return reports, trainable.state_dict()
