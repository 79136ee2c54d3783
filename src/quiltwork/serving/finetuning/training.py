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
import torch
import torch.nn.functional as F
from torch import Tensor

from quiltwork.core.errors import BadInputError
from quiltwork.core.result_folder import ResultFolder
from quiltwork.core.servable import Json
from quiltwork.core.trainable import Setup
from quiltwork.layers.descent import Descent, Ids, Loss, device_named, digest_of
from quiltwork.serving.finetuning.config import LORA, WHERE, FineTuning, read_config
from quiltwork.serving.finetuning.low_rank import LowRank, put_updates, without, write_adapter
from quiltwork.serving.finetuning.source import find_source
from quiltwork.serving.finetuning.written import write_checkpoint
from quiltwork.serving.stitching.text import Cut, cut_text

_FIXED = ("method", "rank", "alpha", "targets", "window", "held_out")
"""Settings that a state cannot be taken out of: they say what is trained and which text a sample is."""


def language_trainable() -> LanguageTraining:
    """A fine-tuning of a language model, to be set up."""
    return LanguageTraining()


class LanguageTraining(Descent):
    """Next-token training on a text's windows; the settings are those of ``FineTuning``.

    Samples are windows of the text, and the loss is nats per token. Dropout is off: nothing about a sample is random.
    """

    DATA = "text"

    def setup(self, setup: Setup) -> None:
        """Load the model and cut the text. Raises BadInputError, NotFoundError or ConflictError naming the field."""
        self._config = config = read_config(setup.config)
        if setup.seed < 0:
            raise BadInputError(f"{setup.seed} is negative", where="seed")
        self._seed, self._device = setup.seed, device_named(setup.device)
        text = _read_text(config.text)
        self._source = find_source(config, setup.workdir)
        shares = (1 - config.held_out,)
        codec = self._source.codec()
        self._cut = cut_text(text, codec, window=config.window, shares=shares, where=f"{WHERE}: text: {config.text}")
        self._run = _run_id(config, setup.seed, self._cut.digest)
        self._result = ResultFolder(Path(config.out), where=f"{WHERE}: out")
        self._result.require_free(self._run)
        self._model, self._stored = self._source.load(self._device)
        _require_room(self._model.config, self._cut, config.window)
        self._updates: Mapping[str, LowRank] = {}
        if config.method == LORA:
            self._updates = put_updates(self._model, config, setup.seed)
        trained = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        self._frozen = digest_of({name: p for name, p in self._model.named_parameters() if not p.requires_grad})
        self.begin(config, trained, len(self._cut.parts[0]), setup.seed)

    def held_out_loss(self) -> float:
        """Nats per token on the text that is not learned from."""
        return self._measure(self._model)

    def _deliver(self) -> tuple[float, float]:
        if (told := self._result.report(self._run)) is not None:
            return told["held_out"]["before"], told["held_out"]["after"]
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
        self._result.write(self._run, report, self._write_weights)
        return before, after

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

    def _measure(self, model: Any) -> float:
        windows = self._cut.parts[1]
        return self._mean_loss(len(windows), lambda ids: self._loss(model, windows[torch.from_numpy(ids)]))

    def _loss_of(self, ids: Ids) -> Loss:
        return Loss(self._loss(self._model, self._cut.parts[0][torch.from_numpy(ids.astype(np.int64))]))

    def _rate_factor(self, done: int) -> float:
        return rate_factor(done, self._config)

    def _loss(self, model: Any, windows: Tensor) -> Tensor:
        """The mean cross-entropy of windows' (n, prefix + window) predicted tokens."""
        ids, first = windows.to(self._device), max(self._cut.prefix, 1)
        half = self._config.dtype == "bfloat16"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=half):
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        return F.cross_entropy(logits[:, first - 1 :].flatten(0, 1).float(), ids[:, first:].flatten())

    def _identity(self) -> dict[str, Json]:
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
