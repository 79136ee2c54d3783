"""Fine-tuning of an encoder as an ``Elastic``: any number of workers share a step, and it resumes exactly."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cosine_similarity

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.core.sample_order import SampleOrder
from quiltwork.core.servable import Json
from quiltwork.core.trainable import Gradients, Setup, State, StepReport
from quiltwork.text.encoder.finetuning.adamw import NamedAdamW
from quiltwork.text.encoder.finetuning.config import WHERE, FineTuning, read_config
from quiltwork.text.encoder.finetuning.pairs import ScoredPairs, read_pairs
from quiltwork.text.encoder.finetuning.result import Result
from quiltwork.text.encoder.finetuning.trained_model import TrainedModel
from quiltwork.text.encoder.packaged import packaged_files
from quiltwork.text.files import Folder

Ids = npt.NDArray[np.int64]


def encoder_trainable() -> EncoderTraining:
    """A fine-tuning of an encoder, to be set up."""
    return EncoderTraining()


class EncoderTraining:
    """Regression of pairs' cosines on their scores; the settings are those of ``FineTuning``.

    A sample is a pair, and the loss the mean over pairs of (cosine - score)^2: any split among workers gives the same
    gradient. Worker 0 writes the result in the last step; whoever is told later that it is worker 0 does so in
    any further step, if it is not there.
    """

    def setup(self, setup: Setup) -> None:
        """Load the encoder and the pairs. Raises BadInputError, NotFoundError or ConflictError naming the field."""
        self._config = config = read_config(setup.config)
        if setup.seed < 0:
            raise BadInputError(f"{setup.seed} is negative", where="seed")
        self._seed = setup.seed
        device = _device(setup.device)
        if config.model is not None and not Path(config.model).is_dir():
            raise NotFoundError("is no folder", where=f"{WHERE}: model: {config.model}")
        self._files = packaged_files() if config.model is None else Folder(config.model)
        self._model = TrainedModel(self._files)
        self._pairs, self._aside = read_pairs(config, self._model.tokens, self._model.prompt)
        self._device = device
        self._model.to(device)
        parameters = dict(self._model.named_parameters())
        self._weights = NamedAdamW(parameters, config.weight_decay)
        start = _digest(parameters)
        self._identity: dict[str, Json] = {"seed": setup.seed, "pairs": self._pairs.digest, "model": start}
        self._identity |= {"held_out": config.held_out}
        told = json.dumps([asdict(config), self._identity], sort_keys=True)
        self._result = Result(Path(config.out), hashlib.blake2b(told.encode(), digest_size=16).hexdigest())
        self._result.require_free()
        self._order = SampleOrder(len(self._pairs), setup.seed)
        self._batch, self._rate = config.batch, config.rate
        self._done = self._taken = self._rank = 0

    def next_samples(self) -> Ids:
        """The places (batch,) of the next step's pairs, the same on every worker."""
        return self._order.ids(self._taken, self._batch)

    def gradients(self, sample_ids: Ids) -> Gradients:
        """The mean over these pairs' losses, and its gradient."""
        count = len(sample_ids)
        if not count:
            return Gradients(self._weights.zeros(), 0, {"loss": 0.0})
        if int(sample_ids.min()) < 0 or int(sample_ids.max()) >= len(self._pairs):
            raise BadInputError(f"there are {len(self._pairs)} samples", where="sample_ids")
        self._weights.forget_gradients()
        total = 0.0
        size = self._config.micro_batch or count
        for start in range(0, count, size):
            some = sample_ids[start : start + size]
            loss = _loss(self._model, self._pairs.some(some)) * (len(some) / count)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return Gradients(self._weights.take_gradients(), count, {"loss": total})

    def apply(self, mean: Gradients) -> StepReport:
        """AdamW's step; after the last one worker 0 writes the result, if it is not there."""
        if mean.count < 1:
            raise BadInputError("there is no sample to take a step with", where="gradients")
        metrics = dict(mean.metrics)
        if self._done < self._config.steps:
            rate = self._rate * rate_factor(self._done, self._config)
            metrics["gradient_norm"] = self._weights.step(mean.arrays, self._done, rate, self._config.clip)
            metrics["rate"] = rate
            self._done += 1
            self._taken += mean.count
        return self._report(metrics)

    def step(self) -> StepReport:
        """One step, alone."""
        if self._done >= self._config.steps:
            return self._report({})
        return self.apply(self.gradients(self.next_samples()))

    def resize(self, rank: int, workers: int) -> None:
        """Which of how many workers this is. A step's samples stay as many as they are."""
        if not 0 <= rank < workers:
            raise BadInputError(f"there is no worker {rank} of {workers}", where="rank")
        self._rank = rank

    def set_batch(self, samples: int) -> None:
        """So many pairs in the following steps, all workers together, instead of the setting ``batch``."""
        if samples < 1:
            raise BadInputError(f"{samples} is not a number of samples", where="batch")
        self._batch = samples

    def set_learning_rate(self, rate: float) -> None:
        """This instead of the setting ``rate``; warming up and falling go on as they are."""
        if not 0 < rate < math.inf:
            raise BadInputError(f"{rate} is not a positive number", where="rate")
        self._rate = rate

    def state_dict(self) -> State:
        """Weights, moments, and where in the pairs it is; all float32."""
        meta: dict[str, Json] = {"done": self._done, "taken": self._taken, "of": self._identity}
        return State(self._weights.state(), meta)

    def load_state_dict(self, state: State) -> None:
        """Go on from a state. Raises BadInputError naming what it was made with and this is not."""
        of = state.meta.get("of")
        for name, value in self._identity.items():
            was = of.get(name) if isinstance(of, Mapping) else None
            if was != value:
                raise BadInputError(f"is of a training with {str(was)[:80]}, this has {value}", where=f"state: {name}")
        done, taken = state.meta.get("done"), state.meta.get("taken")
        if type(done) is not int or type(taken) is not int or min(done, taken) < 0:
            raise BadInputError("does not say where in the pairs it is", where="state: taken")
        if done > self._config.steps:
            raise BadInputError(f"has done {done} steps, this is to do {self._config.steps}", where="state: done")
        self._weights.load(state.arrays, done)
        self._done, self._taken = done, taken

    def held_out_loss(self) -> float:
        """The mean of (cosine - score)^2 over the pairs that are not learned from."""
        return self._measure(self._model)

    def _loss_before(self) -> float:
        """The same of the encoder as it came; training has overwritten it, so it is loaded again."""
        return self._measure(TrainedModel(self._files).to(self._device))

    @torch.no_grad()
    def _measure(self, model: TrainedModel) -> float:
        size = self._config.micro_batch or self._config.batch
        places = np.arange(len(self._aside))
        parts = [places[start : start + size] for start in range(0, len(places), size)]
        return math.fsum(float(_loss(model, self._aside.some(some))) * len(some) for some in parts) / len(places)

    def _report(self, metrics: dict[str, float]) -> StepReport:
        finished = self._done >= self._config.steps
        if finished and self._rank == 0:
            told = self._deliver()
            for name in ("held_out_before", "held_out_after"):
                metrics[name] = float(told[name])
        return StepReport(self._done, self._config.steps, finished, metrics)

    def _deliver(self) -> Mapping[str, Json]:
        if (told := self._result.read()) is not None:
            return told
        report: dict[str, Json] = {
            "held_out_before": self._loss_before(),
            "held_out_after": self.held_out_loss(),
            "held_out_pairs": len(self._aside),
            "pairs": len(self._pairs),
            "truncated_pairs": self._pairs.truncated,
            "steps": self._done,
            "samples": self._taken,
            "parameters": self._weights.count,
            "config": asdict(self._config),
            **self._identity,
        }
        self._result.write(report, self._model.save)
        return report


def _loss(model: TrainedModel, pairs: ScoredPairs) -> torch.Tensor:
    vectors = model([*pairs.a, *pairs.b])
    found = cosine_similarity(vectors[: len(pairs)], vectors[len(pairs) :])
    return ((found - torch.from_numpy(pairs.wanted).to(found.device)) ** 2).mean()


def rate_factor(done: int, config: FineTuning) -> float:
    """What the rate is multiplied by in the step after ``done``: up to 1 over ``warmup`` steps, then straight down."""
    if done < config.warmup:
        return (done + 1) / config.warmup
    return (config.steps - done) / (config.steps - config.warmup)


def _digest(parameters: Mapping[str, torch.Tensor]) -> str:
    total = hashlib.blake2b(digest_size=16)
    for name, parameter in parameters.items():
        total.update(f"\0{name}\0{tuple(parameter.shape)}\0".encode())
        total.update(parameter.detach().cpu().reshape(-1).numpy().data)
    return total.hexdigest()


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadInputError(f"{name!r} is not a device", where="device") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInputError("no CUDA device here", where="device")
    return device
