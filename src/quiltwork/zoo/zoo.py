"""The zoo: a folder in which models are kept as shared pieces.

On disk::

    zoo/
      index.sqlite     objects, blocks, models, aliases (SQLite, WAL)
      objects/ab/cd..  one file per distinct content, named by the blake3 of the *decoded* bytes; how it is encoded
                       (raw, compressed, difference from another object) is in the index
      tmp/             additions in progress, one folder each, locked by the process that writes it
      lock             empty; held shared while adding, alone while collecting garbage

A model is a manifest (canonical JSON) naming blocks by id; a block is canonical JSON naming tensors by content. So
everything is immutable but the names of models. Files come first and rows last: whatever has a row is whole.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from quiltwork.core.disk import disk_errors, sync
from quiltwork.core.errors import BadInputError, ConflictError, CorruptionError, NotFoundError
from quiltwork.core.names import PUBLIC, ModelRef, visible_to
from quiltwork.zoo import codec
from quiltwork.zoo.dtypes import itemsize, widen
from quiltwork.zoo.fsck import Finding, check
from quiltwork.zoo.fsck import repair as mend
from quiltwork.zoo.gc import Freed, collect
from quiltwork.zoo.index import Index, ModelRow, ObjectRow, delete_name, put_alias
from quiltwork.zoo.lock import FolderLock
from quiltwork.zoo.manifest import contents_of, read_model
from quiltwork.zoo.objects import Bytes, ObjectFiles, Watch
from quiltwork.zoo.packing import Malformed, unpack
from quiltwork.zoo.session import Session
from quiltwork.zoo.staging import recover, session_folder
from quiltwork.zoo.types import Chain, Model, RawTensor, TensorRef

if TYPE_CHECKING:
    from quiltwork.zoo.diff import Difference
    from quiltwork.zoo.du import Usage
    from quiltwork.zoo.explain import Explanation
    from quiltwork.zoo.export import Exported
    from quiltwork.zoo.ingest import Added

_MANIFEST_BYTES = 1 << 28


class Zoo:
    """A folder of models; safe to use from many threads and processes at once.

    path : the folder.
    create : make it where there is none; otherwise that raises NotFoundError.
    watch : called with the name of each step of an addition or collection; for tests that stop the process there.

    Raises BadInputError where the folder holds something else.
    """

    def __init__(self, path: str | PathLike[str], *, create: bool = True, watch: Watch = lambda step: None) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise BadInputError("is a file, not a zoo's folder", where=str(self.path))
        index = self.path / "index.sqlite"
        if not index.exists():
            foreign = sorted(set(self._names()) - {"index.sqlite", "objects", "tmp", "lock"})
            if foreign:
                raise BadInputError(f"is not a zoo: holds {foreign[0]!r}", where=str(self.path))
            if not create:
                raise NotFoundError("no zoo here", where=str(self.path), hint="`quiltwork zoo add` makes one")
            with disk_errors(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
        self._watch = watch
        self._lock = FolderLock(self.path / "lock")
        self._files = ObjectFiles(self.path / "objects")
        self._temporary = self.path / "tmp"
        self._adding = threading.local()
        with disk_errors(self.path):
            self._files.root.mkdir(exist_ok=True)
            sync(self.path)
        self._index = Index(index, self._lock)
        recover(self._temporary, self._index, self._files)

    def __enter__(self) -> Zoo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the index. Tensors already read stay valid; the zoo may be used again."""
        self._index.close()

    # -- what is in it ------------------------------------------------------------------------------------------------

    def models(self, tenant: str | None = None) -> list[ModelRef]:
        """All models, or those that ``tenant`` may see, ordered by tenant and name."""
        refs = [row.ref for row in self._index.models()]
        return refs if tenant is None else [ref for ref in refs if visible_to(ref, tenant)]

    def model(self, ref: ModelRef | str) -> Model:
        """A model by its name or an alias of it. Raises NotFoundError, CorruptionError."""
        return self._read_row(self._row(ref))[0]

    def recipe(self, ref: ModelRef | str) -> bytes:
        """What export needs to write a model's files again, as given to ``Session.commit``."""
        return self.content(self._read_row(self._row(ref))[1]).tobytes()

    def aliases(self) -> dict[ModelRef, ModelRef]:
        """Aliases and the models they stand for."""
        return self._index.aliases()

    def chain(self, ref: ModelRef | str) -> Chain:
        """A model as the ordered run of blocks that serving executes. Raises UnsupportedError saying why it cannot."""
        from quiltwork.zoo.families import chain

        return chain(self.model(ref))

    def read(self, ref: TensorRef) -> RawTensor:
        """A tensor's exact bytes in ``ref.dtype``; a read-only memory map where they are stored as they are.

        The result stays valid whatever happens to the model. Raises NotFoundError, CorruptionError.
        """
        stored = self.content(ref.content)
        expected = math.prod(ref.shape) * itemsize(ref.stored_dtype)
        if stored.size != expected:
            raise CorruptionError(f"{stored.size} bytes instead of {expected}", where=f"tensor {ref.name}")
        return RawTensor(ref.dtype, ref.shape, widen(stored, ref.stored_dtype, ref.dtype))

    def content(self, content: str) -> Bytes:
        """Decoded bytes of an object, flat uint8, read-only. Raises NotFoundError, CorruptionError."""
        row = self._index.object(content)
        if row is None:
            raise NotFoundError("no such object", where=f"object {content}")
        try:
            return codec.decode(row, self._files.map(content), self.content)
        except CorruptionError:
            if self._index.object(content) is None:  # collected since we looked
                raise NotFoundError("no such object", where=f"object {content}") from None
            raise

    def read_file(self, model: Model, name: str) -> bytes:
        """One of ``model.files``. Raises NotFoundError."""
        if name not in model.files:
            raise NotFoundError(f"no file {name!r}", where=f"model {model.ref}")
        return self.content(model.files[name]).tobytes()

    def objects(self) -> dict[str, ObjectRow]:
        """How every object is kept, by content id."""
        return self._index.objects()

    def needs(self, ref: ModelRef | str) -> set[str]:
        """Content ids of the objects that a model is made of; what those are differences from is not included."""
        return contents_of(*self._read_row(self._row(ref)))

    def stored_bytes(self) -> int:
        """Bytes of all files in the folder, index included; only the empty lock file is not counted."""
        self._index.close()
        total = 0
        for file in self.path.rglob("*"):
            try:
                total += file.stat().st_size if file.is_file() else 0
            except FileNotFoundError:  # an addition beside us has just tidied up
                continue
        return total

    # -- changing it --------------------------------------------------------------------------------------------------

    @contextmanager
    def adding(self) -> Iterator[Session]:
        """An addition: put tensors and files, then commit a model. On an exception nothing stays.

        Waits while garbage is being collected.
        """
        with self._lock.shared(), session_folder(self._temporary, self._index, self._files) as folder:
            self._adding.depth = getattr(self._adding, "depth", 0) + 1
            try:
                yield Session(folder, self._index, self._files, self._watch)
            finally:
                self._adding.depth -= 1

    def alias(self, alias: ModelRef, ref: ModelRef | str) -> None:
        """Let ``alias`` stand for a model. Raises NotFoundError, ConflictError where a model has that name."""
        with self._index.transaction() as transaction:
            put_alias(transaction, alias, self._row(ref).ref)

    def remove(self, *refs: ModelRef | str) -> None:
        """Forget models (and their aliases) or aliases; none of them where one is not there (NotFoundError).

        What only they used stays until ``gc``; readers go on.
        """
        with self._index.transaction() as transaction:
            for ref in refs:
                self._row(ref)
            for ref in refs:
                delete_name(transaction, _ref(ref))

    def gc(self, *, wait: bool = True) -> Freed:
        """Remove what no model uses, once no addition is in progress (without ``wait``: ConflictError if one is).

        Tensors already read stay valid. Raises CorruptionError, having removed nothing, where a manifest is damaged.
        """
        self._require_no_addition()
        return collect(self._lock, self._index, self._files, self._temporary, self._read_row, self._watch, wait=wait)

    def fsck(self, *, repair: bool = False, progress: Callable[[int], None] | None = None) -> list[Finding]:
        """Check every byte; returns what is wrong, nothing for a sound zoo.

        repair : remove extra files and forget damaged objects, so that adding the same model again stores them anew.
        progress : told how many bytes of object files have been read since it was last told.
        """
        recover(self._temporary, self._index, self._files)
        findings = check(
            self._lock, self._index, self._files, self._read_row, self.content, progress or (lambda nbytes: None)
        )
        if not repair or not findings:
            return findings
        self._require_no_addition()
        return mend(findings, self._lock, self._index, self._files)

    def _require_no_addition(self) -> None:
        if getattr(self._adding, "depth", 0):
            raise ConflictError("this thread is adding a model", where=str(self.path), hint="finish that first")

    def _names(self) -> Iterable[str]:
        return (entry.name for entry in self.path.iterdir()) if self.path.is_dir() else ()

    def _row(self, ref: ModelRef | str) -> ModelRow:
        row = self._index.model(_ref(ref))
        if row is None:
            raise _no_model(_ref(ref))
        return row

    def _read_row(self, row: ModelRow) -> tuple[Model, str]:
        where = f"manifest of {row.ref}"
        model, recipe = read_model(_unpacked(row.manifest, where), row.ref, self._body)
        if model.version != row.version:
            raise CorruptionError("its content does not have its version", where=where)
        return model, recipe

    def _body(self, id: str) -> bytes:
        body = self._index.blocks([id]).get(id)
        if body is None:
            raise CorruptionError("no such block", where=f"block {id}")
        return _unpacked(body, f"block {id}")

    # -- what other files of this room do -----------------------------------------------------------------------------

    def add(
        self,
        source: str | PathLike[str],
        *,
        name: str | None = None,
        tenant: str = PUBLIC,
        base: ModelRef | str | None = None,
        lossy: str | None = None,
        replace: bool = False,
        aliases: Iterable[str] = (),
        progress: Callable[[int], None] | None = None,
    ) -> Added:
        """Take in a model directory, adapter, GGUF file or hub name; see ``quiltwork.zoo.ingest.add``."""
        from quiltwork.zoo.ingest import add

        return add(
            self,
            source,
            name=name,
            tenant=tenant,
            base=base,
            lossy=lossy,
            replace=replace,
            aliases=aliases,
            progress=progress,
        )

    def export(
        self,
        ref: ModelRef | str,
        dest: str | PathLike[str],
        *,
        lossy: bool = False,
        merged: bool = False,
        format: str = "source",
        progress: Callable[[int], None] | None = None,
    ) -> Exported:
        """Write a model's files again; see ``quiltwork.zoo.export.export``."""
        from quiltwork.zoo.export import export

        return export(self, ref, dest, lossy=lossy, merged=merged, format=format, progress=progress)

    def diff(self, a: ModelRef | str, b: ModelRef | str) -> Difference:
        """Where two models differ; see ``quiltwork.zoo.diff.diff``."""
        from quiltwork.zoo.diff import diff

        return diff(self, a, b)

    def explain(
        self,
        ref: ModelRef | str,
        *,
        tenant: str | None = None,
        among: Collection[ModelRef | str] | None = None,
        near: bool = True,
        progress: Callable[[int], None] = lambda nbytes: None,
    ) -> Explanation:
        """How a model is made up and who has the same parts; see ``quiltwork.zoo.explain.explain``."""
        from quiltwork.zoo.explain import explain

        return explain(self, ref, tenant=tenant, among=among, near=near, progress=progress)

    def du(self) -> Usage:
        """What sharing saved and who shares what; see ``quiltwork.zoo.du.du``."""
        from quiltwork.zoo.du import du

        return du(self)


def _ref(ref: ModelRef | str) -> ModelRef:
    return ModelRef(ref) if isinstance(ref, str) else ref


def _no_model(ref: ModelRef) -> NotFoundError:
    return NotFoundError("no such model", where=str(ref), hint="`quiltwork zoo ls` lists them")


def _unpacked(data: bytes, where: str) -> bytes:
    try:
        return unpack(data, at_most=_MANIFEST_BYTES)
    except Malformed as error:
        raise CorruptionError(f"cannot be decompressed: {error}", where=where) from error
