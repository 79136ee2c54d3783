"""Models of sentences by what their files say they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from quiltwork.core.errors import NotFoundError, UnsupportedError
from quiltwork.core.registry import resolve
from quiltwork.text.embedder import Embedder
from quiltwork.text.files import Folder, ModelFiles, read_json
from quiltwork.zoo.families import is_language
from quiltwork.zoo.types import Model

DEFAULT = "all-MiniLM-L6-v2"
"""The encoder that comes as a Python package with the extra ``[text]``."""
_MODULES = "modules.json"
"""What sentence-transformers lists a model's modules in."""

KINDS: Mapping[str, str] = {
    "word-vectors": "quiltwork.text.vectors.pooling:load_word_embedder",
    "paragraph-vectors": "quiltwork.text.paragraph.folder:load",
    "sentence-ngrams": "quiltwork.text.sent2vec.folder:load",
}
"""``model_type`` in config.json -> what makes an embedder of a model's files."""
_ENCODER = "quiltwork.text.encoder:load_encoder"
ENCODERS = frozenset(
    ("albert", "bert", "camembert", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta",
     "xlm-roberta")
)  # fmt: skip
"""``model_type`` of encoders that are taken without sentence-transformers' files beside them."""


def takes(model: Model) -> bool:
    """Whether a model of a zoo makes vectors of sentences in a way that is known here."""
    known = model.family in KINDS or model.family in ENCODERS or _MODULES in model.files
    return known and not is_language(model)


def load(files: ModelFiles, *, name: str | None = None, threads: int | None = None) -> Embedder:
    """The model of a folder, or of a zoo.

    name : what tables call it, of an encoder; the last part of where it lies if not given. threads : cores that an
    encoder uses; all if not given.

    Raises NotFoundError where a file is missing, UnsupportedError for a kind that is not known, BadInputError naming
    the file that is malformed.
    """
    kind = read_json(files, "config.json").get("model_type") if files.has("config.json") else None
    if isinstance(kind, str) and kind in KINDS:
        made: Embedder = resolve(KINDS[kind])(files)
        return made
    if files.has(_MODULES) or (isinstance(kind, str) and kind in ENCODERS):
        encoder: Callable[..., Embedder] = resolve(_ENCODER)
        return encoder(files, name=name, threads=threads)
    if kind is None:
        raise NotFoundError("holds no model of sentences: neither config.json with a model_type nor modules.json",
                            where=files.where)  # fmt: skip
    known = ", ".join((*KINDS, *sorted(ENCODERS)))
    raise UnsupportedError(f"{str(kind)[:60]!r} is no model of sentences that is known",
                           where=f"{files.where}: config.json: model_type", hint=f"known: {known}")  # fmt: skip


def default_folder() -> Path:
    """The folder of all-MiniLM-L6-v2. Raises QuiltworkError where its package is not installed."""
    from quiltwork.text.encoder import packaged_files

    return Path(packaged_files().where)


def model_at(place: str | Path | None, *, threads: int | None = None) -> Embedder:
    """A model by the folder that it lies in; all-MiniLM-L6-v2 where None, or by that name if there is no such folder.

    Raises as ``load``.
    """
    if place is None or (str(place) == DEFAULT and not Path(place).is_dir()):
        return load(Folder(default_folder()), name=DEFAULT, threads=threads)
    if not Path(place).is_dir():
        raise NotFoundError("no such folder", where=str(place), hint=f"a model's folder, or {DEFAULT}")
    return load(Folder(place), threads=threads)
