"""Models of sentences under the names that a table has for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quiltwork.text.embedder import Embedded, Embedder
from quiltwork.text.files import Folder, read_json
from quiltwork.text.models import model_at

PACKAGED = "packaged"
"""Stands for the encoder that comes with the extra ``text``."""


@dataclass(frozen=True)
class Named:
    """An embedder under another name: two of one kind stand beside each other in a table."""

    name: str
    embedder: Embedder

    @property
    def dimensions(self) -> int:
        return self.embedder.dimensions

    def embed(self, sentences: Sequence[str]) -> Embedded:
        return self.embedder.embed(sentences)


def open_model(folder: str | Path, *, name: str | None = None) -> Embedder:
    """The embedder of a model's folder, or the packaged encoder. name : what tables call it; where None, the folder's,
    or the packaged encoder's own.

    Raises as ``model_at``: NotFoundError for a folder that is not there, and what the loaders raise for what is wrong.
    """
    if str(folder) == PACKAGED:
        packaged = model_at(None)
        return packaged if name is None else Named(name, packaged)
    return Named(name or Path(folder).resolve().name, model_at(folder))


def words_of(folder: str | Path) -> int | None:
    """How many words of a corpus a model was trained on, where its config.json says so."""
    files = Folder(folder)
    if not files.has("config.json"):
        return None
    config = read_json(files, "config.json")
    told = config.get("tokens")
    if told is None and isinstance(config.get("training"), dict):
        told = config["training"].get("tokens")
    return told if isinstance(told, int) and not isinstance(told, bool) else None
