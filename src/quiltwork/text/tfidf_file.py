"""The counts of a collection, kept beside a model's other files."""

from __future__ import annotations

import json
import os
from pathlib import Path

from quiltwork.core.errors import BadInputError
from quiltwork.text.files import ModelFiles, read_json
from quiltwork.text.tfidf import TfIdf

FILE = "idf.json"


def save_tfidf(measure: TfIdf, folder: str | os.PathLike[str]) -> None:
    """Write ``idf.json`` into a folder that is there."""
    document = {"sentences": measure.sentences, "having": dict(sorted(measure.having.items()))}
    Path(folder, FILE).write_text(json.dumps(document, ensure_ascii=False) + "\n", encoding="utf-8")


def load_tfidf(files: ModelFiles) -> TfIdf:
    """The counts that a model keeps. Raises NotFoundError, and BadInputError where they are none."""
    where = f"{files.where}: {FILE}"
    told = read_json(files, FILE)
    sentences, having = told.get("sentences"), told.get("having")
    if not isinstance(sentences, int) or not isinstance(having, dict) or not all(map(_count, having.values())):
        raise BadInputError("does not hold counts of sentences", where=where)
    try:
        return TfIdf(sentences, having)
    except BadInputError as error:
        raise BadInputError(error.what, where=where) from error


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
