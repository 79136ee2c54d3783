"""Fine-tuning of a language model as an ``Elastic``: any number of workers share a step, and it resumes exactly."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from quiltwork.core.errors import BadInputError
from quiltwork.core.sample_order import SampleOrder
from quiltwork.core.servable import Json
from quiltwork.core.trainable import Gradients, Setup, State, StepReport
from quiltwork.serving.finetuning.config import LORA, WHERE, FineTuning, read_config
from quiltwork.serving.finetuning.flat_adamw import FlatAdamW
from quiltwork.serving.finetuning.low_rank import LowRank, put_updates, without, write_adapter
from quiltwork.serving.finetuning.result import Result, write_checkpoint
from quiltwork.serving.finetuning.source import find_source
from quiltwork.serving.stitching.text import Cut, cut_text

Ids = npt.NDArray[np.int64]

_FIXED = ("method", "rank", "alpha", "targets", "window", "held_out")
"""Settings that a state cannot be taken out of: they say what is trained and which text a sample is."""


def language_trainable() -> LanguageTraining:
    """A fine-tuning of a language model, to be set up."""
    return LanguageTraining()


class LanguageTraining:
    """Next-token training on a text's windows; the settings are those of ``FineTuning``.

    Samples are windows of the text. Dropout is off, so nothing about a sample is random. Worker 0 writes the result in
    the last step; whoever is told later that it is worker 0 does so in any further step, if it is not there.
    """

    def setup(self, setup: Setup) -> None:
        """Load the model and cut the text. Raises BadInputError, NotFoundError or ConflictError naming the field."""
        self._config = config = read_config(setup.config)
        if setup.seed < 0:
            raise BadInputError(f"{setup.seed} is negative", where="seed")
        self._seed, self._device = setup.seed, _device(setup.device)
        text = _read_text(config.text)
        self._source = find_source(config, setup.workdir)
        shares = (1 - config.held_out,)
        codec = self._source.codec()
        self._cut = cut_text(text, codec, window=config.window, shares=shares, where=f"{WHERE}: text: {config.text}")
        self._result = Result(Path(config.out), _run_id(config, setup.seed, self._cut.digest))
        self._result.require_free()
        self._model, self._stored = self._source.load(self._device)
        _require_room(self._model.config, self._cut, config.window)
        self._updates: Mapping[str, LowRank] = {}
        if config.method == LORA:
            self._updates = put_updates(self._model, config, setup.seed)
        trained = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        self._frozen = _digest({name: p for name, p in self._model.named_parameters() if not p.requires_grad})
        self._weights = FlatAdamW(trained, config.weight_decay)
        self._order = SampleOrder(len(self._cut.parts[0]), setup.seed)
        self._batch, self._rate = config.batch, config.rate
        self._done = self._taken = self._rank = 0

    def next_samples(self) -> Ids:
        """The ids (batch,) of the next step's windows, the same on every worker."""
        return self._order.ids(self._taken, self._batch)

    def gradients(self, sample_ids: Ids) -> Gradients:
        """The mean over these windows' losses (nats per token), and its gradient."""
        count = len(sample_ids)
        if not count:
            return Gradients(self._weights.zeros(), 0, {"loss": 0.0})
        windows = self._cut.parts[0]
        ids = torch.from_numpy(sample_ids.astype(np.int64))
        if int(ids.min()) < 0 or int(ids.max()) >= len(windows):
            raise BadInputError(f"there are {len(windows)} samples", where="sample_ids")
        self._weights.forget_gradients()
        total = 0.0
        for some in torch.split(ids, self._config.micro_batch or count):
            loss = self._loss(self._model, windows[some]) * (len(some) / count)
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
        """Weights that are trained, moments, and where in the text it is; all float32."""
        meta = {"done": self._done, "taken": self._taken, "of": self._identity()}
        return State(self._weights.state(), meta)

    def load_state_dict(self, state: State) -> None:
        """Go on from a state. Raises BadInputError naming what it was made with and this is not."""
        of = state.meta.get("of")
        for name, value in self._identity().items():
            was = of.get(name) if isinstance(of, Mapping) else None
            if was != value:
                raise BadInputError(f"is of a training with {str(was)[:80]}, this has {value}", where=f"state: {name}")
        done, taken = state.meta.get("done"), state.meta.get("taken")
        if type(done) is not int or type(taken) is not int or min(done, taken) < 0:
            raise BadInputError("does not say where in the text it is", where="state: taken")
        if done > self._config.steps:
            raise BadInputError(f"has done {done} steps, this is to do {self._config.steps}", where="state: done")
        self._weights.load(state.arrays, done)
        self._done, self._taken = done, taken

    def held_out_loss(self) -> float:
        """Nats per token on the text that is not learned from."""
        return self._measure(self._model)

    def _report(self, metrics: dict[str, float]) -> StepReport:
        finished = self._done >= self._config.steps
        if finished and self._rank == 0:
            told = self._deliver()["held_out"]
            metrics |= {"held_out_before": told["before"], "held_out_after": told["after"]}
        return StepReport(self._done, self._config.steps, finished, metrics)

    def _deliver(self) -> Mapping[str, Json]:
        if (told := self._result.read()) is not None:
            return told
        before, after = self._loss_before(), self.held_out_loss()
        windows = self._cut.parts[1]
        tokens = len(windows) * (windows.shape[1] - max(self._cut.prefix, 1))
        report: dict[str, Json] = {
            "held_out": {"before": before, "after": after, "tokens": tokens},
            "steps": self._done,
            "samples": self._taken,
            "parameters": self._weights.count,
            "seed": self._seed,
            "text_sha256": self._cut.digest,
            "config": _as_json(self._config),
        }
        self._result.write(report, self._write_weights)
        return report

    def _write_weights(self, folder: Path) -> None:
        if self._updates:
            write_adapter(folder, self._updates, self._config, self._source.called)
        else:
            write_checkpoint(folder, self._model, self._stored, self._source.folder)

    def _loss_before(self) -> float:
        """The held-out loss of the model as it came. Full training has overwritten it, so it is loaded again."""
        if self._updates:
            with without(self._updates):
                return self._measure(self._model)
        return self._measure(self._source.load(self._device)[0])

    @torch.no_grad()
    def _measure(self, model: Any) -> float:
        windows = self._cut.parts[1]
        batches = torch.split(windows, self._config.micro_batch or self._config.batch)
        return math.fsum(float(self._loss(model, some)) * len(some) for some in batches) / len(windows)

    def _loss(self, model: Any, windows: Tensor) -> Tensor:
        """The mean cross-entropy of windows' (n, prefix + window) predicted tokens."""
        ids, first = windows.to(self._device), max(self._cut.prefix, 1)
        half = self._config.dtype == "bfloat16"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=half):
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        return F.cross_entropy(logits[:, first - 1 :].flatten(0, 1).float(), ids[:, first:].flatten())

    def _identity(self) -> dict[str, Json]:
        """What has to be the same for a state to mean the same."""
        config = _as_json(self._config)
        told = {"seed": self._seed, "text_sha256": self._cut.digest, "frozen": self._frozen}
        return {name: config[name] for name in _FIXED} | told


def rate_factor(done: int, config: FineTuning) -> float:
    """What the rate is multiplied by in the step after ``done``: up to 1 over ``warmup`` steps, down half a cosine."""
    if done < config.warmup:
        return (done + 1) / config.warmup
    past = (done - config.warmup) / (config.steps - config.warmup)
    return 0.5 * (1 + math.cos(math.pi * past))


def _as_json(config: FineTuning) -> dict[str, Json]:
    """Its fields as JSON gives them back."""
    fields: dict[str, Json] = json.loads(json.dumps(asdict(config)))
    return fields


def _run_id(config: FineTuning, seed: int, digest: str) -> str:
    told = json.dumps([_as_json(config), seed, digest], sort_keys=True)
    return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()


def _digest(parameters: Mapping[str, Tensor]) -> str:
    """Of the weights that a state does not hold but counts on."""
    total = hashlib.blake2b(digest_size=16)
    for name, parameter in parameters.items():
        total.update(f"\0{name}\0{tuple(parameter.shape)}\0".encode())
        total.update(parameter.detach().cpu().reshape(-1).numpy().data)
    return total.hexdigest()


def _require_room(model: Any, cut: Cut, window: int) -> None:
    positions = getattr(model, "max_position_embeddings", None)
    if positions is not None and cut.prefix + window - 1 > positions:
        room = positions + 1 - cut.prefix
        raise BadInputError(f"{window} tokens are more than the {room} that fit the model", where=f"{WHERE}: window")


def _read_text(path: str) -> str:
    where = f"{WHERE}: text: {path}"
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadInputError("is not UTF-8", where=where) from error
    except (OSError, ValueError) as error:
        raise BadInputError(f"cannot be read: {getattr(error, 'strerror', None) or error}", where=where) from error


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadInputError(f"{name!r} is not a device", where="device") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInputError("no CUDA device here", where="device")
    return device
