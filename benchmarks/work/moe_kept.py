"""Finished runs, one folder each, found again by a digest of what decides how they go; a started one is not found."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quiltwork.core.errors import BadInputError

if TYPE_CHECKING:
    from quiltwork.core.servable import Json

KEEP = "QUILTWORK_BENCH_WORK"
"""Environment variable: the folder in which finished runs are kept; without it they are gone after the benchmark."""
FINISHED = "run.json"


def work_folder(scratch: Path, environment: Mapping[str, str] | None = None) -> Path:
    """Where runs are kept. environment : this process's own where None."""
    told = os.environ if environment is None else environment
    return Path(told.get(KEEP) or scratch) / "moe"


def digest_of(told: Mapping[str, Json]) -> str:
    """Of JSON, whatever the order of its fields."""
    return hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=8).hexdigest()


_SOURCES = (
    "moe/*.py", "moe/control/*.py", "moe/curriculum/*.py", "moe/models/*.py", "moe/training/*.py",
    "layers/compiled.py", "layers/descent.py", "layers/flat_adamw.py", "layers/rope.py", "core/sample_order.py",
)  # fmt: skip
"""Below the package: what decides how a training goes."""


def training_sources() -> list[Path]:
    """Those files of the package."""
    import quiltwork

    package = Path(next(iter(quiltwork.__path__)))
    return [path for pattern in _SOURCES for path in package.glob(pattern) if path.name != "__init__.py"]


def digest_of_sources(paths: Iterable[Path]) -> str:
    """Of what Python files do: comments, docstrings and line breaks do not count.

    Files are told apart by their names, not by where they lie.
    """
    total = hashlib.blake2b(digest_size=8)
    for path in sorted(paths, key=lambda path: path.name):
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        total.update(f"\0{path.name}\0{ast.dump(_without_docstrings(tree))}".encode())
    return total.hexdigest()


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [line for line in body if not _is_text(line)]  # type: ignore[attr-defined]
    return tree


def _is_text(line: object) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


@dataclass(frozen=True)
class Kept:
    """The folder of all runs; ``sources`` is the digest of the code that makes them."""

    root: Path
    sources: str

    def folder(self, told: Mapping[str, Json]) -> Path:
        """Of the run with these settings: a name that people can read, and the digest that tells it from others."""
        name = "-".join(str(told[part]) for part in ("task", "arm", "seed") if part in told)
        return self.root / f"{name}-{digest_of({**told, 'sources': self.sources})}"

    def read(self, told: Mapping[str, Json]) -> Mapping[str, Json] | None:
        """What the finished run found; None where it has not been finished. Raises BadInputError for a damaged one."""
        path = self.folder(told) / FINISHED
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BadInputError(
                f"is not JSON: {error}", where=str(path), hint="remove it, and it is run anew"
            ) from error
        if not isinstance(found, dict):
            raise BadInputError("is not an object", where=str(path), hint="remove it, and it is run anew")
        return found

    def write(self, told: Mapping[str, Json], found: Mapping[str, Json]) -> Path:
        """Keep what a run found; it is there whole or not at all."""
        path = self.folder(told) / FINISHED
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{FINISHED}.{secrets.token_hex(4)}")
        fresh.write_text(
            json.dumps({**found, "settings": dict(told), "sources": self.sources}, indent=1, allow_nan=False),
            encoding="utf-8",
        )
        os.replace(fresh, path)
        return path
