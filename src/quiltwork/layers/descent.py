"""Training a network by its gradients as an ``Elastic``: any number of workers share a step, and it resumes exactly.

What is learned, from which samples, and what is left behind is for a room to say (``Descent``'s abstract methods).
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from quiltwork.core.errors import BadInputError
from quiltwork.core.sample_order import SampleOrder
from quiltwork.core.servable import Json
from quiltwork.core.trainable import Arrays, Gradients, State, StepReport
from quiltwork.layers.flat_adamw import FlatAdamW
from quiltwork.layers.order import Ids, LearningOrder, Order, Rows

__all__ = ["Descent", "Ids", "Loss", "Settings", "device_named", "digest_of"]

MEANS, RECORDS, KEPT, ORDER = "means", "records", "kept", "order"
"""What comes beside gradients and weights, as ``means/NAME``: gradients and states are flat."""


@dataclass(frozen=True)
class Loss:
    """Of some samples, n."""

    mean: Tensor
    """The mean of their losses, to be differentiated."""
    means: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    """What else is a mean over them, of the shapes that ``_mean_shapes`` says."""
    records: Rows | None = None
    """(n, columns): what an order that learns is to know of each."""


class Settings(Protocol):
    """What every training by gradients is told."""

    @property
    def steps(self) -> int: ...
    @property
    def batch(self) -> int:
        """Samples of a step, all workers together."""
        ...

    @property
    def micro_batch(self) -> int | None:
        """Samples that a worker computes at once; all of its share where None."""
        ...

    @property
    def rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def clip(self) -> float: ...


class Descent(ABC):
    """AdamW on the mean of samples' losses. A room's class calls ``begin`` at the end of its ``setup``.

    Nothing about a sample may be random but by its id. Worker 0 writes the result in the last step; whoever is told
    later that it is worker 0 does so in any further step, if it is not there.
    """

    DATA = "data"
    """What messages call what samples are of."""

    def begin(
        self,
        settings: Settings,
        parameters: Mapping[str, nn.Parameter],
        samples: int,
        seed: int,
        order: Order | None = None,
    ) -> None:
        """Before the first step. parameters : those that are trained, float32, by name. order : if not a drawn one."""
        self._settings, self._samples = settings, samples
        self._weights = FlatAdamW(parameters, settings.weight_decay)
        self._order = order or SampleOrder(samples, seed)
        self._batch, self._rate = settings.batch, settings.rate
        self._done = self._taken = self._rank = 0
        self._workers = 1

    # ---- what a room says

    @abstractmethod
    def _loss_of(self, ids: Ids) -> Loss:
        """The loss of these samples."""

    @abstractmethod
    def _rate_factor(self, done: int) -> float:
        """What the rate is multiplied by in the step after ``done``."""

    @abstractmethod
    def _identity(self) -> Mapping[str, Json]:
        """What has to be the same for a state to mean the same."""

    @abstractmethod
    def _deliver(self) -> tuple[float, float]:
        """Write the result, if it is not there; the held-out loss before training and after it."""

    # ---- what a room may say besides

    def _mean_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """What every ``Loss.means`` has, and of which shape."""
        return {}

    def _told(self, means: Arrays, count: int) -> Mapping[str, float]:
        """Metrics of a step, and whatever else is learnt from its ``means`` over ``count`` samples of all workers.

        It is the same on every worker.
        """
        return {}

    def _stepped(self) -> Mapping[str, float]:
        """Further metrics, when the step is done."""
        return {}

    def _arranged(self, ids: Ids) -> Ids:
        """A step's samples in the order in which they are split among ``self._workers``; every worker says the same."""
        return ids

    def _kept(self) -> State:
        """What else belongs to a state."""
        return State({}, {})

    def _load_kept(self, state: State) -> None:
        """Go on from ``_kept``. Raises BadInputError naming what does not fit."""
        if state.arrays or state.meta:
            raise BadInputError("is nothing that is kept here", where=f"state: {min([*state.arrays, *state.meta])}")

    # ---- what is the same for all

    def next_samples(self) -> Ids:
        """The ids (batch,) of the next step's samples, the same on every worker."""
        return self._arranged(self._order.ids(self._taken, self._batch))

    def gradients(self, sample_ids: Ids) -> Gradients:
        """The mean over these samples' losses, and its gradient."""
        count = len(sample_ids)
        means = {name: np.zeros(shape, np.float32) for name, shape in self._mean_shapes().items()}
        columns = self._order.columns if isinstance(self._order, LearningOrder) else 0
        rows = np.zeros((self._samples, columns), np.float32)
        if count and (int(sample_ids.min()) < 0 or int(sample_ids.max()) >= self._samples):
            raise BadInputError(f"there are {self._samples} samples", where="sample_ids")
        self._weights.forget_gradients()
        total = 0.0
        size = self._settings.micro_batch or max(count, 1)
        for start in range(0, count, size):
            some = sample_ids[start : start + size]
            share = len(some) / count
            told = self._loss_of(some)
            loss = told.mean * share
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
            for name, mean in means.items():
                mean += told.means[name] * np.float32(share)
            if columns:
                assert told.records is not None
                np.add.at(rows, some, told.records / np.float32(count))
        arrays = self._weights.take_gradients() if count else self._weights.zeros()
        arrays |= {f"{MEANS}/{name}": mean for name, mean in means.items()}
        if columns:
            arrays[RECORDS] = rows
        return Gradients(arrays, count, {"loss": total})

    def apply(self, mean: Gradients) -> StepReport:
        """AdamW's step; after the last one worker 0 writes the result, if it is not there."""
        if mean.count < 1:
            raise BadInputError("there is no sample to take a step with", where="gradients")
        metrics = dict(mean.metrics)
        if self._done < self._settings.steps:
            arrays = dict(mean.arrays)
            rows = arrays.pop(RECORDS, None)
            means = _under(arrays, MEANS)
            weights = {name: array for name, array in arrays.items() if not name.startswith(f"{MEANS}/")}
            rate = self._rate * self._rate_factor(self._done)
            norm = self._weights.step(weights, self._done, rate, self._settings.clip)
            metrics |= {"gradient_norm": norm, "rate": rate, **self._told(means, mean.count)}
            ids = self._order.ids(self._taken, mean.count)
            self._done += 1
            self._taken += mean.count
            if rows is not None and isinstance(self._order, LearningOrder):
                again = np.bincount(ids, minlength=self._samples)[ids].astype(np.float32)
                found = rows[ids].astype(np.float32) * np.float32(mean.count) / again[:, None]
                self._order.record(ids, found, self._taken)
            metrics |= self._stepped()
        return self._report(metrics)

    def step(self) -> StepReport:
        """One step, alone."""
        if self._done >= self._settings.steps:
            return self._report({})
        return self.apply(self.gradients(self.next_samples()))

    def resize(self, rank: int, workers: int) -> None:
        """Which of how many workers this is. A step's samples stay as many as they are."""
        if not 0 <= rank < workers:
            raise BadInputError(f"there is no worker {rank} of {workers}", where="rank")
        self._rank, self._workers = rank, workers

    def set_batch(self, samples: int) -> None:
        """So many samples in the following steps, all workers together, instead of the setting ``batch``."""
        if samples < 1:
            raise BadInputError(f"{samples} is not a number of samples", where="batch")
        self._batch = samples

    def set_learning_rate(self, rate: float) -> None:
        """This instead of the setting ``rate``; warming up and falling go on as they are."""
        if not 0 < rate < math.inf:
            raise BadInputError(f"{rate} is not a positive number", where="rate")
        self._rate = rate

    def state_dict(self) -> State:
        """Weights that are trained and moments, float32; where in the data it is; and what else is kept."""
        kept = self._kept()
        meta: dict[str, Json] = {"done": self._done, "taken": self._taken, "of": dict(self._identity())}
        arrays: dict[str, npt.NDArray[np.generic]] = dict(self._weights.state())
        arrays |= {f"{KEPT}/{name}": array for name, array in kept.arrays.items()}
        if isinstance(self._order, LearningOrder):
            arrays |= {f"{ORDER}/{name}": array for name, array in self._order.state().items()}
        return State(arrays, meta | ({KEPT: dict(kept.meta)} if kept.meta else {}))

    def load_state_dict(self, state: State) -> None:
        """Go on from a state. Raises BadInputError naming what it was made with and this is not."""
        of = state.meta.get("of")
        for name, value in self._identity().items():
            was = of.get(name) if isinstance(of, Mapping) else None
            if was != value:
                raise BadInputError(f"is of a training with {str(was)[:80]}, this has {value}", where=f"state: {name}")
        done, taken = state.meta.get("done"), state.meta.get("taken")
        if type(done) is not int or type(taken) is not int or min(done, taken) < 0:
            raise BadInputError(f"does not say where in the {self.DATA} it is", where="state: taken")
        if done > self._settings.steps:
            raise BadInputError(f"has done {done} steps, this is to do {self._settings.steps}", where="state: done")
        beside = tuple(f"{kind}/" for kind in (KEPT, ORDER))
        self._weights.load({name: one for name, one in state.arrays.items() if not name.startswith(beside)}, done)
        kept = state.meta.get(KEPT)
        self._load_kept(State(_under(state.arrays, KEPT), kept if isinstance(kept, Mapping) else {}))
        if isinstance(self._order, LearningOrder):
            self._order.load(_under(state.arrays, ORDER))
        self._done, self._taken = done, taken

    def _report(self, metrics: dict[str, float]) -> StepReport:
        finished = self._done >= self._settings.steps
        if finished and self._rank == 0:
            metrics["held_out_before"], metrics["held_out_after"] = self._deliver()
        return StepReport(self._done, self._settings.steps, finished, metrics)

    @torch.no_grad()
    def _mean_loss(self, count: int, loss: Callable[[Ids], Tensor]) -> float:
        """The mean of ``count`` samples' losses, as many at once as training computes."""
        size = self._settings.micro_batch or self._settings.batch
        places = np.arange(count)
        parts = [places[start : start + size] for start in range(0, count, size)]
        return math.fsum(float(loss(some)) * len(some) for some in parts) / count


def _under(arrays: Arrays, kind: str) -> dict[str, npt.NDArray[np.generic]]:
    """Those that are called ``kind/NAME``, by NAME."""
    start = f"{kind}/"
    return {name[len(start) :]: array for name, array in arrays.items() if name.startswith(start)}


def digest_of(parameters: Mapping[str, Tensor]) -> str:
    """Of names, shapes and numbers."""
    total = hashlib.blake2b(digest_size=16)
    for name, parameter in parameters.items():
        total.update(f"\0{name}\0{tuple(parameter.shape)}\0".encode())
        total.update(parameter.detach().cpu().reshape(-1).numpy().data)
    return total.hexdigest()


def device_named(name: str) -> torch.device:
    """Raises BadInputError for what is no device, or none that is here."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadInputError(f"{name!r} is not a device", where="device") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInputError("no CUDA device here", where="device")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # meta, cuda:99, those that this torch was built without
        raise BadInputError(f"nothing can be computed on {name!r} here", where="device") from error
    return device
