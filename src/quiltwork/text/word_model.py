"""The folder of a model that knows words: ``config.json``, ``model.safetensors``, ``vocabulary.txt``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json
from quiltwork.text.files import ModelFiles, read_json
from quiltwork.zoo.config import Fields

CONFIG, WEIGHTS, VOCABULARY = "config.json", "model.safetensors", "vocabulary.txt"
CUT = "corenlp"
"""How such models cut a sentence (``word_tokens``); the folder says so."""


@dataclass(frozen=True, eq=False)
class WordModel:
    """What is in the folder."""

    config: Fields
    words: tuple[str, ...]
    arrays: Mapping[str, npt.NDArray[Any]]


def write_word_model(
    folder: str | os.PathLike[str],
    model_type: str,
    config: Mapping[str, Json],
    words: Sequence[str],
    arrays: Mapping[str, npt.NDArray[Any]],
) -> None:
    """Write it into a folder, which is made where it is not there. Raises BadInputError where it cannot be written."""
    from safetensors.numpy import save_file

    at = Path(folder)
    told = {"model_type": model_type, "cut": CUT, **config}
    try:
        at.mkdir(parents=True, exist_ok=True)
        save_file(dict(arrays), at / WEIGHTS)
        (at / VOCABULARY).write_text("".join(f"{word}\n" for word in words), encoding="utf-8", newline="\n")
        (at / CONFIG).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise BadInputError(f"cannot be written: {error.strerror or error}", where=str(folder)) from error


def read_word_model(files: ModelFiles, model_type: str, kinds: Mapping[str, type[np.generic]]) -> WordModel:
    """Read one of this type, with arrays of these types by their names.

    Raises NotFoundError for a file that is not there, BadInputError for one that is not of its kind.
    """
    config = Fields(read_json(files, CONFIG), {}, f"{files.where}: {CONFIG}")
    for key, wanted in (("model_type", model_type), ("cut", CUT)):
        if config.text(key) != wanted:
            raise config.error(key, f"must be {wanted!r}")
    tensors = files.tensors(WEIGHTS)
    for name, kind in kinds.items():
        if name not in tensors or tensors[name].dtype != kind:
            raise BadInputError(f"has no {name} of {np.dtype(kind).name}", where=f"{files.where}: {WEIGHTS}")
    try:
        words = files.read(VOCABULARY).decode("utf-8").split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise BadInputError("is not UTF-8", where=f"{files.where}: {VOCABULARY}") from error
    return WordModel(config, tuple(words), {name: np.ascontiguousarray(tensors[name]) for name in kinds})
