"""Putting a scanned source into a zoo: tensors one by one from the memory map, the rest as files and residue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from quiltwork.core.servable import Json
from quiltwork.zoo.families import TENSORS
from quiltwork.zoo.formats.weights import Slice, WeightsFile, read_slice
from quiltwork.zoo.manifest import make_block
from quiltwork.zoo.objects import Bytes
from quiltwork.zoo.recipe import FileRecipe, Recipe, Residue, TensorPiece
from quiltwork.zoo.session import Session, Stored
from quiltwork.zoo.source import Source
from quiltwork.zoo.types import Part, RawTensor, TensorRef

BESIDE = "beside"
"""The part that holds what a model's files contain besides its weights."""

Report = Callable[[int], None]
"""Told the bytes that have been put since it was last called."""


@dataclass
class Intake:
    """What of one source has been put so far."""

    session: Session
    source: Source
    near: Mapping[str, str]
    """Content id of the base's tensor, by the checkpoint's name for it."""
    lossy: str | None = None
    report: Report = lambda nbytes: None
    losses: dict[str, Json] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    _stored: dict[tuple[str, int, int, str], Stored] = field(default_factory=dict)
    _pieces: dict[str, tuple[str, Slice, Stored]] = field(default_factory=dict)

    def put_all(self) -> Recipe:
        """Put every file of the source; returns how to write them again."""
        made = []
        for entry in self.source.entries:
            if entry.link is not None:
                made.append(FileRecipe(entry.path, link=entry.link))
            elif entry.file is None:
                made.append(FileRecipe(entry.path))
            elif entry.path in self.source.weights:
                made.append(FileRecipe(entry.path, self._put_weights(entry.path, self.source.weights[entry.path])))
            else:
                self.files[entry.path] = self.session.file(entry.file)
                self.report(entry.file.stat().st_size)
                made.append(FileRecipe(entry.path, content=self.files[entry.path]))
        return Recipe(self.source.kind, tuple(made))

    def _put_weights(self, path: str, file: WeightsFile) -> tuple[TensorPiece | Residue, ...]:
        data, at = file.map(), 0
        names = {(item.offset, item.nbytes): name for name, (held, item) in self.source.tensors.items() if held == path}
        pieces: list[TensorPiece | Residue] = []
        for item in file.ranges():
            if item.offset > at:
                pieces.append(Residue(data[at : item.offset].tobytes()))
            name = names.get((item.offset, item.nbytes), item.name)
            stored, heads = self._put(path, item, data, name), self.source.rope_heads.get(name, 0)
            rows = item.shape[0] if heads else 0
            pieces.append(TensorPiece(stored.content, stored.stored_dtype, item.dtype, item.nbytes, heads, rows))
            self._pieces.setdefault(stored.content, (path, item, stored))
            at = item.offset + item.nbytes
        if at < file.size:
            pieces.append(Residue(data[at:].tobytes()))
        return tuple(pieces)

    def _put(self, path: str, item: Slice, data: Bytes, name: str) -> Stored:
        key = (path, item.offset, item.nbytes, item.dtype)
        if item.strides is not None or key not in self._stored:
            raw = self.source.ordered(name, read_slice(data, item))
            stored = self.session.tensor(raw, self.near.get(name), self.lossy)
            if stored.loss is not None:
                self.losses[name] = dict(stored.loss)
            self.report(item.nbytes)
            if item.strides is not None:
                return stored
            self._stored[key] = stored
        return self._stored[key]

    def tensor(self, name: str, role: str, shape: tuple[int, ...] | None = None) -> TensorRef:
        """The reference to one of the source's tensors, under the name it has in a block."""
        path, item = self.source.tensors[name]
        stored = self._put(path, item, self.source.weights[path].map(), name)
        return TensorRef(role, item.dtype, shape or item.shape, stored.content, stored.stored_dtype)

    def derived(self, raw: RawTensor, role: str) -> TensorRef:
        """The reference to a tensor computed from the source's."""
        stored = self.session.tensor(raw)
        return TensorRef(role, raw.dtype, raw.shape, stored.content, stored.stored_dtype)

    def beside(self, parts: list[Part]) -> list[Part]:
        """``parts``, and one more that holds the tensors of the files which no part has."""
        known = {t.content for part in parts for block in (part.block, *part.attachments) for t in block.walk()}
        rest = [
            TensorRef(f"{path}: {item.name}", item.dtype, item.shape, content, stored.stored_dtype)
            for content, (path, item, stored) in self._pieces.items()
            if content not in known
        ]
        return [*parts, Part(BESIDE, make_block(TENSORS, {}, rest))] if rest else parts
