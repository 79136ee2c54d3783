"""What sharing saved: bytes stored against the bytes of the sources, and who shares how much with whom."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quiltwork.core.names import ModelRef
from quiltwork.zoo.index import ObjectRow
from quiltwork.zoo.recipe import Residue, load

if TYPE_CHECKING:
    from quiltwork.zoo.zoo import Zoo


@dataclass(frozen=True)
class ModelUsage:
    """What one model takes."""

    ref: ModelRef
    source_bytes: int
    """Bytes of the files it came in."""
    own_bytes: int
    """Bytes stored that no other model uses: what removing it and collecting garbage would free."""
    shared_bytes: int
    """Bytes stored that other models use too."""
    shares_with: Mapping[ModelRef, int]
    """Other models, and the stored bytes that both use, most first."""


@dataclass(frozen=True)
class Usage:
    """What a whole zoo takes."""

    stored_bytes: int
    """Bytes of all files of the zoo, index included."""
    source_bytes: int
    """Bytes of the files that all models came in."""
    unused_bytes: int
    """Bytes stored that no model uses; ``gc`` removes them."""
    models: tuple[ModelUsage, ...]

    @property
    def ratio(self) -> float | None:
        """Stored over source bytes; None for an empty zoo."""
        return self.stored_bytes / self.source_bytes if self.source_bytes else None


def du(zoo: Zoo) -> Usage:
    """Measure a zoo. Only the index and the recipes are read, no weights."""
    objects = zoo.objects()
    needs = {ref: _with_bases(zoo.needs(ref), objects) for ref in zoo.models()}
    users: dict[str, list[ModelRef]] = defaultdict(list)
    for ref, contents in needs.items():
        for content in contents:
            users[content].append(ref)
    models = tuple(_usage(zoo, ref, contents, users, objects) for ref, contents in needs.items())
    return Usage(
        stored_bytes=zoo.stored_bytes(),
        source_bytes=sum(model.source_bytes for model in models),
        unused_bytes=sum(row.stored for content, row in objects.items() if content not in users),
        models=models,
    )


def _with_bases(contents: set[str], objects: Mapping[str, ObjectRow]) -> set[str]:
    """The objects, and those that they are differences from."""
    found: set[str] = set()
    waiting = list(contents)
    while waiting:
        content = waiting.pop()
        if content not in found and content in objects:
            found.add(content)
            base = objects[content].base
            if base is not None:
                waiting.append(base)
    return found


def _usage(
    zoo: Zoo,
    ref: ModelRef,
    contents: set[str],
    users: Mapping[str, list[ModelRef]],
    objects: Mapping[str, ObjectRow],
) -> ModelUsage:
    own = shared = 0
    together: dict[ModelRef, int] = defaultdict(int)
    for content in contents:
        stored = objects[content].stored
        if len(users[content]) == 1:
            own += stored
            continue
        shared += stored
        for other in users[content]:
            if other != ref:
                together[other] += stored
    most_first = dict(sorted(together.items(), key=lambda item: (-item[1], item[0])))
    return ModelUsage(ref, source_bytes(zoo, ref, objects), own, shared, most_first)


def source_bytes(zoo: Zoo, ref: ModelRef, objects: Mapping[str, ObjectRow]) -> int:
    """Bytes of the files that a model came in."""
    total = 0
    for file in load(zoo.recipe(ref), where=f"recipe of {ref}").files:
        if file.content is not None and file.content in objects:
            total += objects[file.content].nbytes
        for piece in file.pieces or ():
            total += len(piece.data) if isinstance(piece, Residue) else piece.nbytes
    return total
