"""Fine-tuning of an encoder as an ``Elastic``: any number of workers share a step, and it resumes exactly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch.nn.functional import cosine_similarity

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.core.result_folder import ResultFolder
from quiltwork.core.servable import Json
from quiltwork.core.trainable import Setup
from quiltwork.layers.descent import Descent, Ids, Loss, device_named, digest_of
from quiltwork.text.encoder.finetuning.config import WHERE, FineTuning, read_config
from quiltwork.text.encoder.finetuning.pairs import ScoredPairs, read_pairs
from quiltwork.text.encoder.finetuning.trained_model import TrainedModel
from quiltwork.text.encoder.packaged import packaged_files
from quiltwork.text.files import Folder


def encoder_trainable() -> EncoderTraining:
    """A fine-tuning of an encoder, to be set up."""
    return EncoderTraining()


class EncoderTraining(Descent):
    """Regression of pairs' cosines on their scores; the settings are those of ``FineTuning``.

    A sample is a pair, and the loss the mean over pairs of (cosine - score)^2: any split among workers gives the same
    gradient.
    """

    DATA = "pairs"

    def setup(self, setup: Setup) -> None:
        """Load the encoder and the pairs. Raises BadInputError, NotFoundError or ConflictError naming the field."""
        self._config = config = read_config(setup.config)
        if setup.seed < 0:
            raise BadInputError(f"{setup.seed} is negative", where="seed")
        self._device = device_named(setup.device)
        if config.model is not None and not Path(config.model).is_dir():
            raise NotFoundError("is no folder", where=f"{WHERE}: model: {config.model}")
        self._files = packaged_files() if config.model is None else Folder(config.model)
        self._model = TrainedModel(self._files)
        self._pairs, self._aside = read_pairs(config, self._model.tokens, self._model.prompt)
        self._model.to(self._device)
        parameters = dict(self._model.named_parameters())
        self._of: dict[str, Json] = {"seed": setup.seed, "pairs": self._pairs.digest, "model": digest_of(parameters)}
        self._of |= {"held_out": config.held_out}
        told = json.dumps([asdict(config), self._of], sort_keys=True)
        self._run = hashlib.blake2b(told.encode(), digest_size=16).hexdigest()
        self._result = ResultFolder(Path(config.out), where=f"{WHERE}: out")
        self._result.require_free(self._run)
        self.begin(config, parameters, len(self._pairs), setup.seed)

    def held_out_loss(self) -> float:
        """The mean of (cosine - score)^2 over the pairs that are not learned from."""
        return self._measure(self._model)

    def _loss_before(self) -> float:
        """The same of the encoder as it came; training has overwritten it, so it is loaded again."""
        return self._measure(TrainedModel(self._files).to(self._device))

    def _measure(self, model: TrainedModel) -> float:
        return self._mean_loss(len(self._aside), lambda ids: _loss(model, self._aside.some(ids)))

    def _loss_of(self, ids: Ids) -> Loss:
        return Loss(_loss(self._model, self._pairs.some(ids)))

    def _rate_factor(self, done: int) -> float:
        return rate_factor(done, self._config)

    def _identity(self) -> Mapping[str, Json]:
        return self._of

    def _deliver(self) -> tuple[float, float]:
        if (told := self._result.report(self._run)) is not None:
            return told["held_out_before"], told["held_out_after"]
        before, after = self._loss_before(), self.held_out_loss()
        report: dict[str, Json] = {
            "held_out_before": before,
            "held_out_after": after,
            "held_out_pairs": len(self._aside),
            "pairs": len(self._pairs),
            "truncated_pairs": self._pairs.truncated,
            "steps": self._done,
            "samples": self._taken,
            "parameters": self._weights.count,
            "config": asdict(self._config),
            **self._of,
        }
        self._result.write(self._run, report, self._model.save)
        return before, after


def _loss(model: TrainedModel, pairs: ScoredPairs) -> torch.Tensor:
    vectors = model([*pairs.a, *pairs.b])
    found = cosine_similarity(vectors[: len(pairs)], vectors[len(pairs) :])
    return ((found - torch.from_numpy(pairs.wanted).to(found.device)) ** 2).mean()


def rate_factor(done: int, config: FineTuning) -> float:
    """What the rate is multiplied by in the step after ``done``: up to 1 over ``warmup`` steps, then straight down."""
    if done < config.warmup:
        return (done + 1) / config.warmup
    return (config.steps - done) / (config.steps - config.warmup)
