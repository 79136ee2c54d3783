"""The index: a SQLite file (WAL) that says which objects, blocks, models and aliases there are. No pickle."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from quiltwork.core.errors import CapacityError, ConflictError, CorruptionError, QuiltworkError, UnsupportedError
from quiltwork.core.names import ModelRef
from quiltwork.zoo.lock import FolderLock

SCHEMA_VERSION = 1
_APPLICATION = 0x51575A30  # "QWZ0": tells a zoo's index from any other SQLite file.
_SCHEMA = """
CREATE TABLE objects (content BLOB PRIMARY KEY, encoding TEXT NOT NULL, base BLOB, dtype TEXT, nbytes INTEGER NOT NULL,
                      stored INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE blocks  (id BLOB PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE models  (tenant TEXT NOT NULL, name TEXT NOT NULL, version BLOB NOT NULL, manifest BLOB NOT NULL,
                      PRIMARY KEY (tenant, name)) WITHOUT ROWID;
CREATE TABLE aliases (tenant TEXT NOT NULL, name TEXT NOT NULL, model_tenant TEXT NOT NULL, model_name TEXT NOT NULL,
                      PRIMARY KEY (tenant, name)) WITHOUT ROWID;
"""
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE}


@dataclass(frozen=True)
class ObjectRow:
    """How the bytes with a content id are kept."""

    content: str
    encoding: str
    """A name in ``codec``."""
    base: str | None
    """Content id of the object a delta is against."""
    dtype: str | None
    """What the bytes were first stored as (a hint for deltas against them), None for files."""
    nbytes: int
    """Length of the decoded bytes."""
    stored: int
    """Length of the object's file."""


@dataclass(frozen=True)
class ModelRow:
    """A model as the index has it: ``manifest`` is still compressed and unchecked."""

    ref: ModelRef
    version: str
    manifest: bytes


class Index:
    """Connections to the index file, one per concurrent use, so that any thread may call any method."""

    def __init__(self, path: Path, lock: FolderLock, *, busy_seconds: float = 60.0) -> None:
        self.path = path
        self._busy_seconds = busy_seconds
        self._idle: list[sqlite3.Connection] = []
        self._inherited: list[sqlite3.Connection] = []
        self._owner = os.getpid()
        self._guard = threading.Lock()
        with self._connection() as connection:
            if self._version(connection) == 0:
                # Turning WAL on is the one statement that does not wait for another process doing the same.
                with lock.exclusive():
                    if self._version(connection) == 0:
                        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                            raise CorruptionError("not the index of a zoo", where=str(path))
                        connection.execute("PRAGMA journal_mode = WAL")
                        connection.executescript(
                            f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {_APPLICATION};"
                            f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
                        )
            version = self._version(connection)
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            if application != _APPLICATION:
                raise CorruptionError("not the index of a zoo", where=str(path))
            if version != SCHEMA_VERSION:
                raise UnsupportedError(
                    f"written with schema {version}, this program knows {SCHEMA_VERSION}", where=str(path)
                )

    @staticmethod
    def _version(connection: sqlite3.Connection) -> int:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with self._guard:
            if self._owner != os.getpid():
                # After a fork: these connections are the parent's, and SQLite forbids using or closing them here.
                self._owner, self._inherited, self._idle = os.getpid(), [*self._inherited, *self._idle], []
            connection = self._idle.pop() if self._idle else None
        try:
            if connection is None:
                connection = sqlite3.connect(
                    self.path, timeout=self._busy_seconds, isolation_level=None, check_same_thread=False
                )
                connection.execute("PRAGMA synchronous = FULL")
            yield connection
        except sqlite3.Error as error:
            raise self._explained(error) from error
        finally:
            if connection is not None:
                if connection.in_transaction:
                    connection.rollback()
                with self._guard:
                    self._idle.append(connection)

    def _explained(self, error: sqlite3.Error) -> QuiltworkError:
        code = getattr(error, "sqlite_errorcode", None)
        where = str(self.path)
        if code in _FULL:
            return CapacityError("the disk is full", where=where, hint="free some space; nothing was changed")
        if code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return CapacityError("another process has been writing for too long", where=where, hint="try again")
        if code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return CorruptionError(f"the index cannot be read: {error}", where=where)
        return QuiltworkError(f"the index failed: {error}", where=where)

    def close(self) -> None:
        """Close every idle connection; the last one of all processes folds the WAL into the file and removes it."""
        with self._guard:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The only writer of all threads and processes until the end; commits there, or undoes all on an exception."""
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    def object(self, content: str) -> ObjectRow | None:
        """The row of one object."""
        with self._connection() as connection:
            return object_row(connection, content)

    def objects(self) -> dict[str, ObjectRow]:
        """All objects by content id."""
        with self._connection() as connection:
            return all_objects(connection)

    def blocks(self, ids: Iterable[str]) -> dict[str, bytes]:
        """Bodies (compressed) of the blocks that exist among ``ids``."""
        found = {}
        with self._connection() as connection:
            for id in ids:
                row = connection.execute("SELECT body FROM blocks WHERE id = ?", (bytes.fromhex(id),)).fetchone()
                if row is not None:
                    found[id] = bytes(row[0])
        return found

    def model(self, ref: ModelRef) -> ModelRow | None:
        """A model by its own name, else by an alias of its tenant."""
        own = "SELECT tenant, name, version, manifest FROM models WHERE tenant = ? AND name = ?"
        alias = (
            "SELECT m.tenant, m.name, m.version, m.manifest FROM aliases a JOIN models m"
            " ON m.tenant = a.model_tenant AND m.name = a.model_name WHERE a.tenant = ? AND a.name = ?"
        )
        with self._connection() as connection:
            key = (ref.tenant, ref.name)
            row = connection.execute(own, key).fetchone() or connection.execute(alias, key).fetchone()
        return None if row is None else ModelRow(ModelRef(row[1], row[0]), bytes(row[2]).hex(), bytes(row[3]))

    def models(self) -> list[ModelRow]:
        """All models, ordered by tenant and name."""
        with self._connection() as connection:
            return all_models(connection)

    def aliases(self) -> dict[ModelRef, ModelRef]:
        """All aliases and the models they stand for."""
        with self._connection() as connection:
            rows = connection.execute("SELECT tenant, name, model_tenant, model_name FROM aliases ORDER BY 1, 2")
            return {ModelRef(row[1], row[0]): ModelRef(row[3], row[2]) for row in rows}

    def check(self) -> list[str]:
        """What SQLite's own integrity check finds; empty where all is well."""
        with self._connection() as connection:
            found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check")]
        return [] if found == ["ok"] else found

    def shrink(self) -> None:
        """Give back the pages that deletions freed."""
        with self._connection() as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def object_row(connection: sqlite3.Connection, content: str) -> ObjectRow | None:
    """The row of one object, as this connection's transaction sees it."""
    row = connection.execute(
        "SELECT content, encoding, base, dtype, nbytes, stored FROM objects WHERE content = ?",
        (bytes.fromhex(content),),
    ).fetchone()
    return None if row is None else _object(row)


def all_objects(connection: sqlite3.Connection) -> dict[str, ObjectRow]:
    """All objects by content id, as this connection's transaction sees them."""
    rows = connection.execute("SELECT content, encoding, base, dtype, nbytes, stored FROM objects")
    return {row.content: row for row in map(_object, rows)}


def all_models(connection: sqlite3.Connection) -> list[ModelRow]:
    """All models ordered by tenant and name, as this connection's transaction sees them."""
    rows = connection.execute("SELECT tenant, name, version, manifest FROM models ORDER BY 1, 2")
    return [ModelRow(ModelRef(row[1], row[0]), bytes(row[2]).hex(), bytes(row[3])) for row in rows]


def insert_object(connection: sqlite3.Connection, row: ObjectRow) -> None:
    """Add an object's row."""
    base = None if row.base is None else bytes.fromhex(row.base)
    connection.execute(
        "INSERT INTO objects VALUES (?, ?, ?, ?, ?, ?)",
        (bytes.fromhex(row.content), row.encoding, base, row.dtype, row.nbytes, row.stored),
    )


def insert_block(connection: sqlite3.Connection, id: str, body: bytes) -> None:
    """Add a block, or nothing where it exists."""
    connection.execute("INSERT OR IGNORE INTO blocks VALUES (?, ?)", (bytes.fromhex(id), body))


def delete_objects(connection: sqlite3.Connection, contents: Iterable[str]) -> None:
    """Remove objects' rows."""
    connection.executemany("DELETE FROM objects WHERE content = ?", [(bytes.fromhex(c),) for c in contents])


def delete_blocks(connection: sqlite3.Connection, *, keep: Collection[str]) -> int:
    """Remove all blocks but these; returns how many."""
    ids = [bytes(row[0]) for row in connection.execute("SELECT id FROM blocks")]
    dead = [(id,) for id in ids if id.hex() not in keep]
    connection.executemany("DELETE FROM blocks WHERE id = ?", dead)
    return len(dead)


def model_version(connection: sqlite3.Connection, ref: ModelRef) -> str | None:
    """The version that a name (not an alias) has now."""
    key = (ref.tenant, ref.name)
    row = connection.execute("SELECT version FROM models WHERE tenant = ? AND name = ?", key).fetchone()
    return None if row is None else bytes(row[0]).hex()


def put_alias(connection: sqlite3.Connection, alias: ModelRef, ref: ModelRef) -> None:
    """Let ``alias`` stand for the model ``ref``. Raises ConflictError where a model has that name."""
    if model_version(connection, alias) is not None:
        raise ConflictError("a model has this name", where=f"alias {alias}")
    connection.execute(
        "INSERT OR REPLACE INTO aliases VALUES (?, ?, ?, ?)", (alias.tenant, alias.name, ref.tenant, ref.name)
    )


def delete_name(connection: sqlite3.Connection, ref: ModelRef) -> bool:
    """Remove a model and its aliases, else the alias of that name; whether there was either."""
    key = (ref.tenant, ref.name)
    if connection.execute("DELETE FROM models WHERE tenant = ? AND name = ?", key).rowcount:
        connection.execute("DELETE FROM aliases WHERE model_tenant = ? AND model_name = ?", key)
        return True
    return connection.execute("DELETE FROM aliases WHERE tenant = ? AND name = ?", key).rowcount > 0


def put_model(connection: sqlite3.Connection, row: ModelRow) -> None:
    """Add a model, or replace the one of that name; an alias of that name makes way."""
    connection.execute("DELETE FROM aliases WHERE tenant = ? AND name = ?", (row.ref.tenant, row.ref.name))
    connection.execute(
        "INSERT OR REPLACE INTO models VALUES (?, ?, ?, ?)",
        (row.ref.tenant, row.ref.name, bytes.fromhex(row.version), row.manifest),
    )


def _object(row: tuple[bytes, str, bytes | None, str | None, int, int]) -> ObjectRow:
    content, encoding, base, dtype, nbytes, stored = row
    return ObjectRow(bytes(content).hex(), encoding, None if base is None else bytes(base).hex(), dtype, nbytes, stored)
