"""The folder that a training left, read again: the model as it was, its tokens, its settings, its course."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.core.result_folder import REPORT
from quiltwork.core.servable import Json
from quiltwork.moe.models.build import Model
from quiltwork.moe.models.loading import load_trained
from quiltwork.moe.training.checking import read_settings
from quiltwork.moe.training.gating import Gating
from quiltwork.moe.training.settings import TrainingSettings
from quiltwork.moe.training.tokens import Codec, read_codec
from quiltwork.zoo.config import read_json


@dataclass(frozen=True)
class TrainingResult:
    """What ``quiltwork moe train`` left."""

    folder: Path
    model: Model
    gating: Gating
    """Whose gates the model has; to be changed there."""
    settings: TrainingSettings
    codec: Codec
    classes: tuple[str, ...]
    report: Mapping[str, Json]
    """As ``training.json`` has it: curve, test and more."""


def read_result(folder: Path, device: torch.device | None = None) -> TrainingResult:
    """Raises NotFoundError, BadInputError or CorruptionError naming the file."""
    found, path = load_trained(folder, device), folder / REPORT
    if not path.is_file():
        raise NotFoundError("is missing", where=str(path), hint="name the OUT of `quiltwork moe train`")
    report = read_json(path)
    told, seed = report.get("settings"), report.get("seed")
    if not isinstance(told, dict) or not isinstance(seed, int | None):
        raise BadInputError("does not tell of a training", where=str(path))
    settings, gating = read_settings(told), Gating(found.gates, seed or 0)
    gating.watch(found.model)
    return TrainingResult(folder, found.model, gating, settings, read_codec(folder), found.classes, report)


@contextmanager
def reading_again() -> Iterator[None]:
    """Has a file of a result's corpus that is not there told with what to do. Its paths are as they were given."""
    try:
        yield
    except NotFoundError as error:
        hint = "what it was trained on is read again: run this in the folder that it was trained in"
        raise NotFoundError(error.what, where=error.where, hint=hint) from error
