"""Finds the models below a folder, in the order in which a zoo can take them in."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")


@dataclass(frozen=True)
class Candidate:
    """A folder that says it is a model (config.json) or an adapter (adapter_config.json)."""

    name: str
    folder: Path
    adapter: bool
    base: Path | None = None
    """An adapter's base, where its path leads to a folder with a config.json."""

    @property
    def has_tokenizer(self) -> bool:
        return any((self.folder / name).is_file() for name in TOKENIZERS)


@dataclass(frozen=True)
class Found:
    """What a folder holds."""

    models: tuple[Candidate, ...]
    """Bases that adapters name, other models with a tokenizer, those without, adapters: each after what it may need."""
    skipped: tuple[Path, ...]
    """Files that belong to no model, relative to the folder."""


def find_models(root: Path) -> Found:
    """Every model below ``root`` and at it, and bases that its adapters lead to outside of it.

    A folder's name is the model's, or its path where two folders have the same name. Hidden folders and links to
    folders are left alone. Raises NotADirectoryError where ``root`` is no folder.
    """
    if not root.is_dir():
        raise NotADirectoryError(root)
    folders: list[Path] = []
    skipped: list[Path] = []
    for here, below, files in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        path = Path(here)
        if "config.json" in files or "adapter_config.json" in files:
            folders.append(path)
        elif not any(folder in path.parents for folder in folders):
            skipped += [(path / name).relative_to(root) for name in sorted(files)]
    bases = {path: base_of(path) for path in folders if is_adapter(path)}
    outside = {base for base in bases.values() if base is not None} - {path.resolve() for path in folders}
    folders += sorted(outside)
    taken = [folder.resolve().name for folder in folders]
    models = [
        Candidate(
            name=folder.resolve().name if taken.count(folder.resolve().name) == 1 else long_name(folder, root),
            folder=folder,
            adapter=is_adapter(folder),
            base=bases.get(folder),
        )
        for folder in folders
    ]
    named = {base for base in bases.values() if base is not None}
    models.sort(
        key=lambda model: (
            model.adapter,
            model.folder.resolve() not in named,
            not model.has_tokenizer,
            str(model.folder),
        )
    )
    return Found(tuple(models), tuple(skipped))


def is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def base_of(folder: Path) -> Path | None:
    """The folder of an adapter's base, looked for from the adapter's folder first, then from where we are.

    None where it names a model of the hub, nothing, or where the configuration cannot be read: the zoo then looks
    for the base by its weights, or says what is wrong.
    """
    try:
        settings = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    named = settings.get("base_model_name_or_path") if isinstance(settings, dict) else None
    if not isinstance(named, str) or not named or "\0" in named:
        return None
    for path in (folder / named, Path(named)):
        if (path / "config.json").is_file():
            return path.resolve()
    return None


def long_name(folder: Path, root: Path) -> str:
    inside = folder.is_relative_to(root) and folder != root
    parts = folder.relative_to(root).parts if inside else folder.resolve().parts[-2:]
    return "-".join(parts)
