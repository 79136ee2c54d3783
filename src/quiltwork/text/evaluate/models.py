"""Models of sentences out of their folders, of whatever kind they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.core.registry import resolve
from quiltwork.text.embedder import Embedded, Embedder
from quiltwork.text.files import Folder, ModelFiles, read_json

PACKAGED = "packaged"
"""Stands for the encoder that comes with the extra ``text``."""

_LOADERS = {
    "word-vectors": "quiltwork.text.vectors.pooling:load_word_embedder",
    "paragraph-vectors": "quiltwork.text.paragraph.folder:load",
    "sentence-ngrams": "quiltwork.text.sent2vec.folder:load",
}
"""By what a model's config.json says of its type; any other is an encoder."""
_ENCODER = "quiltwork.text.encoder.encoder:load_encoder"
_PACKAGED = "quiltwork.text.encoder.packaged:packaged_encoder"


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
    """The embedder of a model's folder, or the packaged encoder. name : what tables call it; the folder's if None.

    Raises NotFoundError for a folder that is not there, and what the loaders raise for what is wrong in it.
    """
    if str(folder) == PACKAGED:
        packaged: Embedder = resolve(_PACKAGED)()
        return packaged if name is None else Named(name, packaged)
    if not Path(folder).is_dir():
        raise NotFoundError("no such folder", where=str(folder))
    return Named(name or Path(folder).resolve().name, _loaded(Folder(folder)))


def _loaded(files: ModelFiles) -> Embedder:
    kind = read_json(files, "config.json").get("model_type") if files.has("config.json") else None
    if kind is not None and not isinstance(kind, str):
        raise BadInputError("is not a name", where=f"{files.where}: config.json: model_type")
    loaded: Embedder = resolve(_LOADERS.get(kind or "", _ENCODER))(files)
    return loaded


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
