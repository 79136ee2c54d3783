"""Checking a zoo: every object decoded and hashed, every name followed, every file accounted for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from quiltwork.core.errors import CorruptionError, NotFoundError
from quiltwork.zoo.codec import ENCODINGS
from quiltwork.zoo.index import Index, ModelRow, ObjectRow, all_models, all_objects, delete_objects
from quiltwork.zoo.lock import FolderLock
from quiltwork.zoo.manifest import contents_of
from quiltwork.zoo.objects import Bytes, ObjectFiles, content_id
from quiltwork.zoo.types import Model


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    kind: str
    """``index``, ``manifest`` (a model or block cannot be read), ``dangling`` (names what is not there), ``missing``
    (an object's file), ``corrupt`` (not the bytes that its hash says) or ``extra`` (a file nothing speaks of)."""
    where: str
    """The object, model or file."""
    what: str
    repaired: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (" (repaired)" if self.repaired else "")


def check(
    lock: FolderLock,
    index: Index,
    files: ObjectFiles,
    manifest: Callable[[ModelRow], tuple[Model, str]],
    read: Callable[[str], Bytes],
    report: Callable[[int], None],
) -> list[Finding]:
    """Everything that is wrong; empty for a sound zoo. Additions and readers may go on meanwhile.

    manifest : reads a model's row, as ``Zoo`` does.
    read : decodes an object, as ``Zoo.content`` does.
    report : told the length of each object's file once it has been read.
    """
    findings = [Finding("index", str(index.path), what) for what in index.check()]
    # Files are moved to their names only by whoever is the writer, and swept by whoever holds the lock alone: no
    # addition and no collection is half done in this view.
    with lock.shared(), index.transaction() as transaction:
        objects, models, present = all_objects(transaction), all_models(transaction), dict(files)
    findings += _check_models(models, objects, manifest, index)
    for row in objects.values():
        findings += _check_object(row, objects, present, read, index)
        report(row.stored)
    findings += [
        Finding("extra", str(path), "belongs to no object")
        for content, path in present.items()
        if content not in objects
    ]
    return findings


def repair(findings: list[Finding], lock: FolderLock, index: Index, files: ObjectFiles) -> list[Finding]:
    """Remove extra files and forget damaged objects, so that adding the same model again stores them anew.

    Returns the findings with ``repaired`` set on those that were dealt with (manifests and index are not).
    """
    with lock.exclusive(), index.transaction() as transaction:
        known = all_objects(transaction)
        damaged = [f.where for f in findings if f.kind in ("missing", "corrupt") and f.where in known]
        delete_objects(transaction, damaged)
        for content in damaged:
            files.path(content).unlink(missing_ok=True)
        extra = {f.where for f in findings if f.kind == "extra"}
        for content, path in files:
            if str(path) in extra and content not in known:
                path.unlink()
    done = extra | set(damaged)
    return [Finding(f.kind, f.where, f.what, f.kind != "dangling" and f.where in done) for f in findings]


def _check_models(
    models: list[ModelRow],
    objects: dict[str, ObjectRow],
    manifest: Callable[[ModelRow], tuple[Model, str]],
    index: Index,
) -> Iterator[Finding]:
    for row in models:
        try:
            model, recipe = manifest(row)
        except CorruptionError as error:
            if index.model(row.ref) == row:  # not removed or replaced since
                yield Finding("manifest", f"model {row.ref}", str(error))
            continue
        for content in sorted(contents_of(model, recipe) - objects.keys()):
            yield Finding("dangling", f"model {row.ref}", f"object {content} is not there")


def _check_object(
    row: ObjectRow, objects: dict[str, ObjectRow], present: dict[str, Path], read: Callable[[str], Bytes], index: Index
) -> Iterator[Finding]:
    if row.encoding not in ENCODINGS:
        yield Finding("corrupt", row.content, f"unknown encoding {row.encoding!r}")
    elif row.base is not None and row.base not in objects:
        yield Finding("dangling", row.content, f"its base {row.base} is not there")
    elif row.content not in present:
        yield Finding("missing", row.content, "its file is missing")
    else:
        try:
            right = content_id(read(row.content)) == row.content
            what = "its bytes do not have its hash"
        except CorruptionError as error:
            right, what = False, error.what
        except NotFoundError:  # collected since we looked
            return
        if not right and index.object(row.content) is not None:
            yield Finding("corrupt", row.content, what)
