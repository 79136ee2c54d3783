"""The memory of a cluster: one SQLite file, written ahead, by one controller at a time.

What belongs together is written in one transaction: after a crash at any point the file holds whole transactions, from
the first to some last one, and every one whose end was waited for.

    with store.transaction() as change:
        change.put_job(...)
        change.append(rows)
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from quiltwork.cluster.live.store_tables import (
    APPLICATION,
    SCHEMA,
    SCHEMA_VERSION,
    JobRow,
    WorkerRow,
    answer_columns,
    explained,
    job_columns,
    job_of,
    row_columns,
    row_of,
    server_columns,
    server_of,
    worker_columns,
    worker_of,
)
from quiltwork.cluster.log import Row
from quiltwork.cluster.server import Server, Whitelists
from quiltwork.core.disk import sync
from quiltwork.core.errors import ConflictError, CorruptionError, UnsupportedError

_TRAINING, _INFERENCE = "training", "inference"


class Change:
    """One transaction: what is changed here is changed together, or not at all. Not used after its end."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def put_server(self, server: Server) -> None:
        """Add a server, or replace the one of that name."""
        self._connection.execute("INSERT OR REPLACE INTO servers VALUES (?, ?, ?, ?)", server_columns(server))

    def drop_server(self, id: str) -> None:
        self._connection.execute("DELETE FROM servers WHERE id = ?", (id,))

    def put_job(self, job: JobRow) -> None:
        """Add a job, or replace the one of that id."""
        self._connection.execute(
            "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET spec = excluded.spec,"
            " state = excluded.state, submitted = excluded.submitted, started = excluded.started,"
            " ended = excluded.ended, exit = excluded.exit, retries = excluded.retries, more = excluded.more",
            job_columns(job),
        )

    def put_worker(self, worker: WorkerRow) -> None:
        """Add a worker, or replace the one of that id."""
        columns = worker_columns(worker)
        self._connection.execute("INSERT OR REPLACE INTO workers VALUES (?, ?, ?, ?, ?, ?, ?, ?)", columns)

    def drop_worker(self, id: str) -> None:
        self._connection.execute("DELETE FROM workers WHERE id = ?", (id,))

    def append(self, rows: Iterable[Row]) -> None:
        """Add to the end of the decision log. Raises BadInputError for a row with what is no number."""
        self._connection.executemany(
            "INSERT INTO log (time, action, job, servers, before, after, gpus_own, gpus_lent, reason, cost, gain)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [row_columns(row) for row in rows],
        )

    def put_answer(self, request: str, answer: str) -> bool:
        """Remember what a client's request was answered. False, and the first answer stays, where it is known."""
        columns = answer_columns(request, answer)
        return self._connection.execute("INSERT OR IGNORE INTO requests VALUES (?, ?)", columns).rowcount > 0

    def set_whitelists(self, lists: Whitelists) -> None:
        """Begin with these. Raises ConflictError where there are some: those are moved."""
        if whitelists(self._connection) is not None:
            raise ConflictError("there are whitelists already", hint="lend and give back")
        self._connection.execute("INSERT INTO meta VALUES ('epoch', ?)", (str(lists.epoch),))
        self._connection.executemany("INSERT INTO moves VALUES (?, ?)", lists.done.items())
        self._write_lists(Whitelists(frozenset(), frozenset()), lists)

    def lend(self, ids: Iterable[str], *, epoch: int, request: str) -> Whitelists:
        """As ``Whitelists.lend``: compare and set. Raises ConflictError."""
        now = self.whitelists()
        return self._move(now, now.lend(ids, epoch=epoch, request=request), request)

    def give_back(self, ids: Iterable[str], *, epoch: int, request: str) -> Whitelists:
        """As ``Whitelists.give_back``: compare and set. Raises ConflictError."""
        now = self.whitelists()
        return self._move(now, now.give_back(ids, epoch=epoch, request=request), request)

    def whitelists(self) -> Whitelists:
        """As they are now. Raises ConflictError before there are any."""
        found = whitelists(self._connection)
        if found is None:
            raise ConflictError("there are no whitelists yet")
        return found

    def _move(self, before: Whitelists, after: Whitelists, request: str) -> Whitelists:
        if after.epoch != before.epoch:
            self._connection.execute("INSERT INTO moves VALUES (?, ?)", (request, after.epoch))
            self._connection.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (str(after.epoch),))
            self._write_lists(before, after)
        return after

    def _write_lists(self, before: Whitelists, after: Whitelists) -> None:
        for side, now, then in (
            (_TRAINING, after.training, before.training),
            (_INFERENCE, after.inference, before.inference),
        ):
            rows = [(id, side) for id in sorted(now - then)]
            self._connection.executemany("INSERT OR REPLACE INTO whitelists VALUES (?, ?)", rows)


class Store:
    """A file, opened by one controller; another that opens it meanwhile is refused.

    path : made where it is not. watch : is handed each statement before it is carried out.

    Raises ConflictError where another has it; CorruptionError for a damaged file, or one of another kind;
    UnsupportedError for one of another version; CapacityError where the disk is full; QuiltworkError where it cannot
    be written. A file that is refused is left as it was.
    """

    def __init__(self, path: str | Path, *, watch: Callable[[str], None] | None = None) -> None:
        self.path = Path(path).absolute()
        self._lock: int | None = None
        self._connection: sqlite3.Connection | None = None
        try:
            with explained(self.path):
                self._take()
                if not self.path.exists():
                    self._make()
                self._connection = self._open(self.path)
                self._check(self._connection)
                self._connection.execute("PRAGMA journal_mode = WAL")
                # A disk that cannot be written is told now, not at the first decision.
                with self.transaction() as change:
                    change._connection.execute("UPDATE meta SET value = value WHERE key = 'schema'")
            self._connection.set_trace_callback(watch)
        except BaseException:
            self.close()
            raise

    def _take(self) -> None:
        self._lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError("another controller has this store", where=str(self.path)) from error

    def _make(self) -> None:
        """Make a store aside and give it its name when it is whole, so that no half of one ever has it."""
        aside = self.path.with_name(f"{self.path.name}.new")
        for left in (aside, Path(f"{aside}-wal"), Path(f"{aside}-shm")):
            left.unlink(missing_ok=True)
        connection = self._open(aside)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(
                f"BEGIN IMMEDIATE; {SCHEMA} INSERT INTO meta VALUES ('schema', '{SCHEMA_VERSION}');"
                f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            connection.close()
        os.rename(aside, self.path)
        sync(self.path.parent)

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _check(self, connection: sqlite3.Connection) -> None:
        where = str(self.path)
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
            raise CorruptionError("not the store of a cluster", where=where)
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != SCHEMA_VERSION:
            raise UnsupportedError(f"written with schema {version}, this program knows {SCHEMA_VERSION}", where=where)
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise CorruptionError(f"is damaged: {found}", where=where, hint="put back a copy of it")

    @contextmanager
    def transaction(self) -> Iterator[Change]:
        """What is changed until the end is on the disk then, all of it; an exception leaves the store as it was."""
        connection = self._opened()
        with explained(self.path):
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield Change(connection)
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.rollback()

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise ConflictError("the store is closed", where=str(self.path))
        return self._connection

    def _read(self, query: str, given: Sequence[object] = ()) -> list[tuple[object, ...]]:
        with explained(self.path):
            return self._opened().execute(query, given).fetchall()

    def servers(self) -> list[Server]:
        """By name."""
        return [server_of(row) for row in self._read("SELECT * FROM servers ORDER BY id")]

    def jobs(self) -> list[JobRow]:
        """In the order in which they were first put."""
        return [job_of(row) for row in self._read("SELECT * FROM jobs ORDER BY rowid")]

    def job(self, id: str) -> JobRow | None:
        found = self._read("SELECT * FROM jobs WHERE id = ?", (id,))
        return job_of(found[0]) if found else None

    def workers(self, job: str | None = None) -> list[WorkerRow]:
        """By id; of one job, or of all."""
        where, given = ("", ()) if job is None else (" WHERE job = ?", (job,))
        return [worker_of(row) for row in self._read(f"SELECT * FROM workers{where} ORDER BY id", given)]

    def whitelists(self) -> Whitelists | None:
        """None before there are any."""
        with explained(self.path):
            return whitelists(self._opened())

    def answer(self, request: str) -> str | None:
        """What a client's request was answered; None where it is new."""
        found = self._read("SELECT answer FROM requests WHERE id = ?", (request,))
        return str(found[0][0]) if found else None

    def log(self, after: int = 0) -> list[Row]:
        """The decision log without its first ``after`` rows."""
        columns = "time, action, job, servers, before, after, gpus_own, gpus_lent, reason, cost, gain"
        query = f"SELECT {columns} FROM log WHERE number > ? ORDER BY number"
        return [row_of(row) for row in self._read(query, (after,))]

    def close(self) -> None:
        """Fold the written-ahead part into the file, and let go of it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def whitelists(connection: sqlite3.Connection) -> Whitelists | None:
    """As a transaction sees them; None where there are none."""
    epoch = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
    if epoch is None:
        return None
    sides: dict[str, set[str]] = {_TRAINING: set(), _INFERENCE: set()}
    for id, side in connection.execute("SELECT server, side FROM whitelists"):
        sides[side].add(id)
    done = dict(connection.execute("SELECT request, epoch FROM moves ORDER BY epoch"))
    return Whitelists(frozenset(sides[_TRAINING]), frozenset(sides[_INFERENCE]), int(epoch[0]), done)
