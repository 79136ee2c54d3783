"""A trainable whose steps are paced: a little arithmetic for each sample, and a wait for the rest of its time.

Like a device of a given speed: a step of n samples on this worker takes n times ``sample_s``, and what is done between
two steps (exchanging gradients, reports) happens beside it as long as it is shorter than that.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quiltwork.core.sample_order import SampleOrder
from quiltwork.core.trainable import Gradients, Setup, State, StepReport

WIDTH, SAMPLES = 2048, 4096
LATE = 0.5
"""Of a step's time: one that begins later than that after the last ended was held up, and gets its whole time."""


class PacedTraining:
    """Regression on made-up data, elastic. config: ``steps``, ``batch`` (samples of a step), ``sample_s``.

    The first worker writes a line for each step into ``steps.log`` in the job's folder: seconds since 1970, steps done,
    workers.
    """

    def setup(self, setup: Setup) -> None:
        config = setup.config
        self._steps, self._batch = int(str(config["steps"])), int(str(config["batch"]))
        self._sample_s = float(str(config["sample_s"]))
        self._log = None if setup.workdir is None else Path(setup.workdir) / "steps.log"
        self._order, self._seed = SampleOrder(SAMPLES, setup.seed), setup.seed
        self._weights = np.zeros(WIDTH, np.float32)
        self._done, self._rank, self._workers = 0, 0, 0
        self._ended = 0.0

    def next_samples(self) -> npt.NDArray[np.int64]:
        return self._order.ids(self._done * self._batch, self._batch)

    def gradients(self, sample_ids: npt.NDArray[np.int64]) -> Gradients:
        began, takes = time.monotonic(), len(sample_ids) * self._sample_s
        x = np.stack([self._sample(int(i)) for i in sample_ids])
        wrong = x @ self._weights - x.mean(1)
        found = Gradients({"w": (wrong @ x / len(x)).astype(np.float32)}, len(x), {"loss": float((wrong**2).mean())})
        on_time = began - self._ended < LATE * takes
        self._ended = (self._ended if on_time else began) + takes
        if (left := self._ended - time.monotonic()) > 0:
            time.sleep(left)
        return found

    def _sample(self, at: int) -> npt.NDArray[np.float32]:
        return np.random.default_rng([self._seed, at]).standard_normal(WIDTH, np.float32)

    def apply(self, mean: Gradients) -> StepReport:
        if self._done < self._steps:
            self._weights = self._weights - 0.1 * np.asarray(mean.arrays["w"], np.float32)
            self._done += 1
            if self._rank == 0 and self._log is not None:
                with self._log.open("a") as file:
                    file.write(f"{time.time():.4f} {self._done} {self._workers}\n")
        return StepReport(self._done, self._steps, self._done >= self._steps, mean.metrics)

    def step(self) -> StepReport:
        return self.apply(self.gradients(self.next_samples()))

    def resize(self, rank: int, workers: int) -> None:
        self._rank, self._workers = rank, workers

    def state_dict(self) -> State:
        return State({"w": self._weights.copy()}, {"done": self._done})

    def load_state_dict(self, state: State) -> None:
        self._weights = np.asarray(state.arrays["w"], np.float32).copy()
        self._done = int(str(state.meta["done"]))
