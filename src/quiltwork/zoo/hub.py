"""Names on the Hugging Face hub: found in the local cache, else fetched where there is a network."""

from __future__ import annotations

import os
import re
from pathlib import Path

from quiltwork.core.errors import NotFoundError

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*|[A-Za-z0-9][\w.-]*")
_REVISION = re.compile(r"[\w][\w./-]{0,200}")
_OTHER_FRAMEWORKS = (
    "*.h5",
    "*.msgpack",
    "*.ot",
    "*.onnx",
    "*.onnx_data",
    "*.tflite",
    "*.mlmodel",
    "onnx/*",
    "coreml/*",
)
"""Files that no one here reads, often as large as the model itself."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


def cache_folder() -> Path:
    """Where the hub's client keeps what it has fetched (``HF_HUB_CACHE``, ``HF_HOME``)."""
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache"), "huggingface"
    )
    return Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")).expanduser()


def cached(repo: str, revision: str | None) -> Path | None:
    """The folder of a model in the cache, at a revision (a branch, tag or commit; ``main`` where None)."""
    if not _REPO.fullmatch(repo) or ".." in repo:
        return None
    folder = cache_folder() / f"models--{repo.replace('/', '--')}"
    wanted = revision or "main"
    if not _REVISION.fullmatch(wanted) or ".." in wanted:
        return None
    named = folder / "refs" / wanted
    commit = named.read_text().strip() if named.is_file() else wanted
    found = folder / "snapshots" / commit
    complete = _COMMIT.fullmatch(commit) or revision is not None
    return found if complete and found.is_dir() else None


def find(text: str) -> tuple[Path, str]:
    """The folder of ``org/name`` or ``org/name@revision``, and the model's name.

    Raises BadInputError where it is neither a path nor a name, NotFoundError where it is not to be had.
    """
    repo, _, revision = text.partition("@")
    if not _REPO.fullmatch(repo) or ".." in repo or (revision and not _REVISION.fullmatch(revision)):
        raise NotFoundError("no such folder or file, and not a name on the hub (org/name)", where=text[:200])
    found = cached(repo, revision or None)
    if found is not None:
        return found, repo
    if "/" not in repo and os.sep not in text:
        raise NotFoundError("no such folder or file, nor in the local Hugging Face cache", where=text[:200])
    return _fetch(repo, revision or None), repo


def _fetch(repo: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise NotFoundError(
            "not in the local Hugging Face cache", where=repo, hint="to fetch it, install quiltwork[zoo]"
        ) from error
    try:
        return Path(snapshot_download(repo, revision=revision, ignore_patterns=list(_OTHER_FRAMEWORKS)))
    except (LocalEntryNotFoundError, OSError, HfHubHTTPError, ValueError) as error:
        raise NotFoundError(
            "not in the local Hugging Face cache, and the hub cannot be reached or does not have it",
            where=repo if revision is None else f"{repo}@{revision}",
        ) from error
