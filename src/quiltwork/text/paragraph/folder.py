"""The model folder of paragraph vectors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, fields

import numpy as np

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json
from quiltwork.text.files import ModelFiles
from quiltwork.text.paragraph.embedder import ParagraphVectors
from quiltwork.text.paragraph.huffman import HuffmanVectors
from quiltwork.text.paragraph.inference import Inference
from quiltwork.text.word_model import read_word_model, write_word_model

MODEL_TYPE = "paragraph-vectors"
_ARRAYS: dict[str, type[np.generic]] = {
    "inputs": np.float32,
    "nodes": np.float32,
    "starts": np.int64,
    "points": np.int32,
    "codes": np.uint8,
}


def save(
    embedder: ParagraphVectors, folder: str | os.PathLike[str], *, training: Mapping[str, Json] | None = None
) -> None:
    """Write the model into a folder; ``training`` says how it was trained. Raises BadInputError where it cannot."""
    model = embedder.model
    config: dict[str, Json] = {
        "dimensions": model.dimensions,
        "inference": asdict(embedder.inference),
        "training": dict(training or {}),
    }
    write_word_model(folder, MODEL_TYPE, config, model.words, {name: getattr(model, name) for name in _ARRAYS})


def load(files: ModelFiles, inference: Inference | None = None) -> ParagraphVectors:
    """The model of a folder, inferring as it says there, or as given here.

    Raises NotFoundError for a file that is not there, BadInputError for one that is not of its kind.
    """
    found = read_word_model(files, MODEL_TYPE, _ARRAYS)
    try:
        model = HuffmanVectors(found.words, **found.arrays)
        told = inference or _inference(found.config.get("inference"))
    except BadInputError as error:
        raise BadInputError(error.what, where=f"{files.where}: {error.where}") from error
    return ParagraphVectors(model, told)


def _inference(settings: Json) -> Inference:
    if not isinstance(settings, dict):
        raise BadInputError("must be an object", where="inference")
    unknown = sorted(set(settings) - {field.name for field in fields(Inference)})
    if unknown:
        raise BadInputError("is not a setting", where=f"inference: {unknown[0][:40]}")
    return Inference(**settings)
