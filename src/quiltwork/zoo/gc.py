"""Garbage collection: what no model uses, marked from the manifests down and swept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quiltwork.zoo.index import Index, ModelRow, all_models, all_objects, delete_blocks, delete_objects
from quiltwork.zoo.lock import FolderLock
from quiltwork.zoo.manifest import contents_of, named_blocks
from quiltwork.zoo.objects import ObjectFiles, Watch
from quiltwork.zoo.staging import clear_unnamed, recover, session_folder, write_journal
from quiltwork.zoo.types import Model


@dataclass(frozen=True)
class Freed:
    """What a collection removed."""

    objects: int
    blocks: int
    bytes: int
    """Bytes of object files, the index not counted."""


def collect(
    lock: FolderLock,
    index: Index,
    files: ObjectFiles,
    temporary: Path,
    manifest: Callable[[ModelRow], tuple[Model, str]],
    watch: Watch,
    *,
    wait: bool,
) -> Freed:
    """Remove objects and blocks that no model needs, and what killed additions left.

    Additions in progress are waited for (without ``wait``: ConflictError), new ones wait for us. Readers are not
    disturbed: a memory map outlives its file. Raises CorruptionError, having removed nothing, where a manifest cannot
    be read: what it uses is then unknown.
    """
    with lock.exclusive(wait=wait):
        recover(temporary, index, files)
        clear_unnamed(temporary)
        with session_folder(temporary, index, files) as folder:
            with index.transaction() as transaction:
                objects = all_objects(transaction)
                contents, blocks = _marked(all_models(transaction), manifest)
                live = contents | {row.base for row in map(objects.get, contents) if row is not None and row.base}
                dead = [content for content in objects if content not in live]
                # Should we be killed between the rows and the files, whoever opens the zoo next removes the files.
                write_journal(folder, dead)
                watch("collect")
                delete_objects(transaction, dead)
                dead_blocks = delete_blocks(transaction, keep=blocks)
            watch("rows deleted")
            freed = 0
            for content, path in files:
                if content not in live:
                    freed += path.stat().st_size
                    path.unlink()
                    watch("file removed")
        index.shrink()
        return Freed(len(dead), dead_blocks, freed)


def _marked(models: list[ModelRow], manifest: Callable[[ModelRow], tuple[Model, str]]) -> tuple[set[str], set[str]]:
    contents: set[str] = set()
    blocks: set[str] = set()
    for row in models:
        model, recipe = manifest(row)
        contents |= contents_of(model, recipe)
        blocks.update(block.id for block in named_blocks(model.parts))
    return contents, blocks
