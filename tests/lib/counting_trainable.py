"""The smallest trainable there is: a number that grows by its step, to the end that its settings say."""

from __future__ import annotations

import os
import signal

import numpy as np

from quiltwork.core.errors import BadInputError
from quiltwork.core.trainable import Setup, State, StepReport


class Counting:
    """Adds 1, 2, 3 ... to ``total``. ``interrupt_at``: at that step, the process gets a Ctrl-C."""

    def setup(self, setup: Setup) -> None:
        unknown = sorted(set(setup.config) - {"steps", "interrupt_at"})
        if unknown:
            raise BadInputError("is not a setting", where=f"config: {unknown[0]}")
        self._steps, self._interrupt_at = setup.config["steps"], setup.config.get("interrupt_at")
        self._total, self._done, self.loaded = np.zeros(1, dtype=np.int64), 0, 0

    def step(self) -> StepReport:
        if self._done < self._steps:
            if self._done + 1 == self._interrupt_at:
                os.kill(os.getpid(), signal.SIGINT)
            self._done += 1
            self._total = self._total + self._done
        return StepReport(self._done, self._steps, self._done >= self._steps, {"total": float(self._total[0])})

    def state_dict(self) -> State:
        return State({"total": self._total.copy()}, {"done": self._done})

    def load_state_dict(self, state: State) -> None:
        if set(state.arrays) != {"total"}:
            raise BadInputError("is missing", where="state: total")
        self._total, self._done, self.loaded = state.arrays["total"], state.meta["done"], self.loaded + 1
