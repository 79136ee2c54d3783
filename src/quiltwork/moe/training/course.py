"""What is written down while a model learns: a point of its curves every so many steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json
from quiltwork.core.trainable import State

Numbers = npt.NDArray[np.float64]


@dataclass
class Course:
    """Of a training. ``since`` sums what the steps since the last point had."""

    curve: list[dict[str, Json]] = field(default_factory=list)
    """step, samples, cpu_s and flops so far (of training alone, all workers), train_loss and balance since the last
    point, valid_loss; for each layer experts_per_token and second_share, and the load of each expert, since then."""
    cpu_s: float = 0.0
    flops: float = 0.0
    expert_flops: float = 0.0
    since: dict[str, Numbers] = field(default_factory=dict)

    def add(self, means: Mapping[str, npt.NDArray[np.generic]], count: int, cpu_s: float) -> None:
        """A step. means : of its ``count`` samples."""
        self.cpu_s += cpu_s
        self.expert_flops += float(means["flops"][0]) * count
        self.flops += float(means["flops"].sum()) * count
        for name in ("task", "balance", "tokens", "second", "load"):
            total = np.asarray(means[name], np.float64) * count
            self.since[name] = self.since[name] + total if name in self.since else total
        self.since["samples"] = self.since.get("samples", np.zeros(1)) + count

    def point(self, step: int, samples: int, valid_loss: float) -> None:
        """Write a point, and begin anew with what is summed."""
        told: dict[str, Json] = {"step": step, "samples": samples, "cpu_s": self.cpu_s, "flops": self.flops}
        told |= {"expert_flops": self.expert_flops, "valid_loss": valid_loss}
        if (since := self.since) and "samples" in since:
            of = float(since["samples"][0])
            tokens = np.maximum(since["tokens"], 1e-9)
            told |= {"train_loss": float(since["task"][0]) / of, "balance": float(since["balance"][0]) / of}
            told["experts_per_token"] = (since["load"].sum(1) / tokens).tolist()
            told["second_share"] = (since["second"] / tokens).tolist()
            told["load"] = (since["load"] / np.maximum(since["load"].sum(1, keepdims=True), 1e-9)).tolist()
        self.curve.append(told)
        self.since = {}

    def state(self) -> State:
        """All of it."""
        meta: dict[str, Json] = {"curve": [dict(point) for point in self.curve], "cpu_s": self.cpu_s}
        meta |= {"flops": self.flops, "expert_flops": self.expert_flops}
        return State({f"since-{name}": value.copy() for name, value in self.since.items()}, meta)


def read_course(state: State) -> Course:
    """What ``Course.state`` gave. Raises BadInputError naming what is not there."""
    curve, numbers = state.meta.get("curve"), [state.meta.get(name) for name in ("cpu_s", "flops", "expert_flops")]
    if not isinstance(curve, list) or not all(isinstance(point, dict) for point in curve):
        raise BadInputError("is no curve", where="state: curve")
    if not all(isinstance(number, int | float) for number in numbers):
        raise BadInputError("does not say how much was computed", where="state: cpu_s")
    cpu_s, flops, expert_flops = (float(number) for number in numbers if isinstance(number, int | float))
    since = {
        name.removeprefix("since-"): np.array(array, np.float64)
        for name, array in state.arrays.items()
        if name.startswith("since-")
    }
    return Course([dict(point) for point in curve if isinstance(point, dict)], cpu_s, flops, expert_flops, since)
