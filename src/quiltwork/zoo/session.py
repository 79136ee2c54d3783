"""One addition to a zoo: objects are written aside, and become part of it all at once, or not at all.

Order on the disk: every object is written aside and synced; a journal of the names about to be given is synced; then,
inside one SQLite transaction, the files are moved to their names and the rows inserted (see ``staging``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from pathlib import Path
from typing import NamedTuple

import numpy as np

from quiltwork.core.disk import disk_errors
from quiltwork.core.errors import BadInputError, ConflictError, NotFoundError
from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Json
from quiltwork.zoo import codec, delta
from quiltwork.zoo import lossy as lossy_code
from quiltwork.zoo.dtypes import itemsize, narrowed
from quiltwork.zoo.index import (
    Index,
    ModelRow,
    ObjectRow,
    insert_block,
    insert_object,
    model_version,
    object_row,
    put_alias,
    put_model,
)
from quiltwork.zoo.manifest import block_json, contents_of, model_json, named_blocks, read_model
from quiltwork.zoo.objects import (
    Bytes,
    Data,
    ObjectFiles,
    Watch,
    content_id,
    map_file,
    write_synced,
)
from quiltwork.zoo.packing import pack, packed_pieces
from quiltwork.zoo.staging import write_journal
from quiltwork.zoo.types import Model, Part, RawTensor, Substitution

_DRAFT = "draft"
_LEVEL, _LARGE, _LARGE_LEVEL = 9, 1 << 25, 3
_DELTA_BELOW = 0.95
"""A difference is kept only where it is this much smaller: reading it costs more than mapping the plain bytes."""


class Stored(NamedTuple):
    """Where a tensor's bytes went."""

    content: str
    """Content id, for ``TensorRef.content``."""
    stored_dtype: str
    """For ``TensorRef.stored_dtype``."""
    loss: Mapping[str, Json] | None = None
    """For ``Model.lossy``: ``{"code": "int8", "relative_error": 0.0004}``; None where the tensor is kept exactly."""


@dataclass(frozen=True)
class _Pending:
    row: ObjectRow
    path: Path


class Session:
    """An addition in progress; made by ``Zoo.adding``. For one thread.

    Objects put here are invisible to everyone until a commit that refers to them; those that no commit refers to
    vanish with the session.
    """

    def __init__(self, folder: Path, index: Index, files: ObjectFiles, watch: Watch) -> None:
        self._folder, self._index, self._files, self._watch = folder, index, files, watch
        self._pending: dict[str, _Pending] = {}
        self.already = False
        """Whether the last commit found this very model under this very name."""
        self.new_bytes = 0
        """Bytes of object files that the commits so far added."""

    def tensor(self, raw: RawTensor, near: str | None = None, lossy: str | None = None) -> Stored:
        """Put a tensor; equal values are stored once, whatever float dtype they came in.

        near : content id of the same tensor in the base, if any: the difference is stored where that is smaller.
        lossy : ``int8`` or ``int4``: keep a matrix as the rounded difference from ``near``; everything else, and all
            where there is no ``near``, stays exact.

        Raises BadInputError where the bytes do not fit dtype and shape, UnsupportedError for an unknown dtype,
        CapacityError where the disk is full.
        """
        expected = itemsize(raw.dtype) * math.prod(raw.shape)
        if raw.data.size != expected or any(size < 0 for size in raw.shape):
            raise BadInputError(
                f"{raw.data.size} bytes do not make a {raw.dtype} tensor of shape {list(raw.shape)} ({expected} bytes)",
                where="tensor",
            )
        stored_dtype, data = narrowed(np.ascontiguousarray(raw.data), raw.dtype)
        if lossy is not None and lossy not in lossy_code.CODES:
            raise BadInputError(f"{lossy!r} is not one of {', '.join(lossy_code.CODES)}", where="lossy")
        base = self._base(near)
        content = content_id(data)
        if lossy is not None and base is not None and len(raw.shape) > 1 and not self._known(content):
            stored = self._rounded(data, stored_dtype, raw.shape[-1], base, lossy)
            if stored is not None:
                return stored
        if not self._known(content):
            fits = base is not None and _same_rows(data.size, raw.shape, stored_dtype, base)
            if base is None or not fits or not self._delta(content, data, stored_dtype, base):
                self._write(ObjectRow(content, codec.RAW, None, stored_dtype, data.size, 0), [data])
        return Stored(content, stored_dtype)

    def file(self, data: bytes | Path) -> str:
        """Put a small file or a run of residue bytes, compressed where that helps; returns its content id."""
        plain: Data = map_file(data) if isinstance(data, Path) else data
        content, length = content_id(plain), len(plain)
        if not self._known(content):
            level = _LEVEL if length <= _LARGE else _LARGE_LEVEL
            packed = self._write(ObjectRow(content, codec.ZSTD, None, None, length, 0), packed_pieces(plain, level))
            if packed.row.stored >= length:
                self._write(ObjectRow(content, codec.RAW, None, None, length, 0), [plain])
        return content

    def read(self, content: str) -> Bytes:
        """Decoded bytes of an object of the zoo or of this session. Raises NotFoundError."""
        pending = self._pending.get(content)
        row = pending.row if pending else self._index.object(content)
        if row is None:
            raise NotFoundError("no such object", where=f"object {content}")
        payload = map_file(pending.path) if pending else self._files.map(content)
        return codec.decode(row, payload, self.read)

    def commit(
        self,
        ref: ModelRef,
        *,
        family: str,
        parts: Sequence[Part],
        config: Mapping[str, Json],
        files: Mapping[str, str],
        recipe: bytes,
        base: ModelRef | None = None,
        unservable: Sequence[str] = (),
        lossy: Mapping[str, Json] | None = None,
        notes: Sequence[str] = (),
        measured: Mapping[str, Json] | None = None,
        substitutions: Sequence[Substitution] = (),
        aliases: Iterable[ModelRef] = (),
        replace: bool = True,
    ) -> Model:
        """Make a model of what was put, under the name ``ref``.

        Every content id in ``parts`` and ``files`` must have come from this session or be in the zoo.
        ``recipe`` is what export needs to write the source's files again.
        ``replace``: take the place of a different model of that name; otherwise that raises ConflictError.
        Raises BadInputError where a content id is unknown, or a field cannot be written as JSON.
        """
        recipe_content = self.file(recipe)
        draft = Model(
            ref=ref,
            version="",
            family=family,
            parts=tuple(parts),
            config=config,
            files=files,
            base=base,
            unservable=tuple(unservable),
            lossy=lossy or {},
            notes=tuple(notes),
            measured=measured or {},
            substitutions=tuple(substitutions),
        )
        manifest = model_json(draft, recipe_content)
        bodies = {block.id: block_json(block) for block in named_blocks(draft.parts)}
        # What comes back is what a later reader will get: the manifest, read again with all its checks.
        model, _ = read_model(manifest, ref, bodies.__getitem__)
        contents = contents_of(model, recipe_content)
        with disk_errors(self._files.root):
            self._publish(model, manifest, bodies, contents, aliases, replace)
        return model

    def _known(self, content: str) -> bool:
        return content in self._pending or self._index.object(content) is not None

    def _row(self, content: str) -> ObjectRow | None:
        pending = self._pending.get(content)
        return pending.row if pending else self._index.object(content)

    def _base(self, near: str | None) -> ObjectRow | None:
        """The object to take a difference from: never one that is a difference itself."""
        row = None if near is None else self._row(near)
        if near is not None and row is None:
            raise BadInputError(f"content {near} was never stored", where="near")
        return self._row(row.base) if row is not None and row.base is not None else row

    def _delta_ratio(self, data: Bytes, dtype: str, near: Bytes, base: ObjectRow) -> float:
        if base.dtype is None or not delta.comparable(dtype, base.dtype):
            return 1.0
        return delta.expected_ratio(data, dtype, near, base.dtype)

    def _delta(self, content: str, data: Bytes, dtype: str, base: ObjectRow) -> bool:
        """Store the exact difference from ``base``; whether that was worth it."""
        near = self.read(base.content)
        if base.dtype is None or self._delta_ratio(data, dtype, near, base) >= _DELTA_BELOW:
            return False
        row = ObjectRow(content, codec.DELTA, base.content, dtype, data.size, 0)
        written = self._write(row, delta.encode(data, dtype, near, base.dtype))
        if written.row.stored < _DELTA_BELOW * data.size:
            return True
        self._drop(written)
        return False

    def _rounded(self, data: Bytes, dtype: str, columns: int, base: ObjectRow, code: str) -> Stored | None:
        """Store the rounded difference from ``base``; None where that is impossible, or no smaller than an exact one
        (8 bits for each half-precision element are not)."""
        near = self.read(base.content)
        if base.dtype is None or not lossy_code.possible(data, dtype, near, base.dtype):
            return None
        pieces = lossy_code.encode(data, dtype, near, base.dtype, columns=columns, code=code)
        # The object's id is the hash of what it decodes to, which is known only once it is written.
        draft = self._write(ObjectRow(_DRAFT, codec.ROUNDED, base.content, dtype, data.size, 0), pieces)
        at_most = min(_DELTA_BELOW, self._delta_ratio(data, dtype, near, base)) * data.size
        decoded = codec.decode(draft.row, map_file(draft.path), self.read)
        error = lossy_code.relative_error(data, decoded, dtype)
        content = content_id(decoded)
        if not np.isfinite(error) or draft.row.stored >= at_most or self._known(content):
            self._drop(draft)
            return Stored(content, dtype, _loss(code, error)) if self._known(content) else None
        path = draft.path.rename(draft.path.with_name(content))
        del self._pending[_DRAFT]
        self._pending[content] = _Pending(changed(draft.row, content=content), path)
        return Stored(content, dtype, _loss(code, error))

    def _write(self, row: ObjectRow, pieces: Iterable[Data]) -> _Pending:
        """Write an object's file aside; the row comes back with its length."""
        path = self._folder / row.content
        path.unlink(missing_ok=True)
        with disk_errors(self._files.root):
            self._watch("object")
            written = changed(row, stored=write_synced(path, pieces))
            self._watch("object written")
        self._pending[row.content] = _Pending(written, path)
        return self._pending[row.content]

    def _drop(self, pending: _Pending) -> None:
        del self._pending[pending.row.content]
        pending.path.unlink()

    def _publish(
        self,
        model: Model,
        manifest: bytes,
        bodies: Mapping[str, bytes],
        contents: set[str],
        aliases: Iterable[ModelRef],
        replace: bool,
    ) -> None:
        contents |= {base for c in contents if c in self._pending and (base := self._pending[c].row.base)}
        mine = [self._pending[content] for content in sorted(contents) if content in self._pending]
        write_journal(self._folder, (pending.row.content for pending in mine))
        placed: list[_Pending] = []
        with self._index.transaction() as transaction:
            self._watch("commit")
            for content in sorted(contents - self._pending.keys()):
                if object_row(transaction, content) is None:
                    raise BadInputError(f"content {content} was never stored", where=f"model {model.ref}")
            for pending in mine:
                # From here on a failure ends in the journal being undone; this session has the file no more.
                del self._pending[pending.row.content]
                if object_row(transaction, pending.row.content) is None:
                    self._files.place(pending.path, pending.row.content)
                    self._watch("object placed")
                    insert_object(transaction, pending.row)
                    placed.append(pending)
                else:
                    pending.path.unlink()
            if placed:
                self._files.sync(pending.row.content for pending in placed)
            for id, body in bodies.items():
                insert_block(transaction, id, pack(body, _LEVEL))
            current = model_version(transaction, model.ref)
            if current not in (None, model.version) and not replace:
                raise ConflictError("the name is taken by another model", where=str(model.ref))
            self.already = current == model.version
            if not self.already:
                put_model(transaction, ModelRow(model.ref, model.version, pack(manifest, _LEVEL)))
            for alias in aliases:
                put_alias(transaction, alias, model.ref)
            self._watch("rows inserted")
        self._watch("committed")
        self.new_bytes += sum(pending.row.stored for pending in placed)


def _loss(code: str, error: float) -> Mapping[str, Json]:
    return {"code": code, "relative_error": error}


def _same_rows(nbytes: int, shape: tuple[int, ...], dtype: str, base: ObjectRow) -> bool:
    """Whether ``base`` may be the same tensor, or the same with more or fewer rows."""
    if base.dtype is None or not nbytes or not base.nbytes:
        return False
    elements, base_elements = nbytes // itemsize(dtype), base.nbytes // itemsize(base.dtype)
    return elements == base_elements or (len(shape) > 1 and base_elements % (elements // shape[0]) == 0)
