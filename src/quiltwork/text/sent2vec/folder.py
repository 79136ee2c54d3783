"""The model folder of sent2vec's vectors."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json
from quiltwork.text.files import ModelFiles
from quiltwork.text.sent2vec.model import MOST_WORDS, SentenceNgrams
from quiltwork.text.word_model import read_word_model, write_word_model

MODEL_TYPE = "sentence-ngrams"


def save(
    embedder: SentenceNgrams, folder: str | os.PathLike[str], *, training: Mapping[str, Json] | None = None
) -> None:
    """Write the model into a folder; ``training`` says how it was trained. Raises BadInputError where it cannot."""
    config: dict[str, Json] = {
        "dimensions": embedder.dimensions,
        "longest": embedder.longest,
        "training": dict(training or {}),
    }
    write_word_model(folder, MODEL_TYPE, config, embedder.words, {"inputs": embedder.inputs})


def load(files: ModelFiles) -> SentenceNgrams:
    """The model of a folder.

    Raises NotFoundError for a file that is not there, BadInputError for one that is not of its kind.
    """
    found = read_word_model(files, MODEL_TYPE, {"inputs": np.float32})
    try:
        return SentenceNgrams(found.words, found.arrays["inputs"], found.config.size("longest", MOST_WORDS))
    except BadInputError as error:
        raise BadInputError(error.what, where=f"{files.where}: {error.where}") from error
