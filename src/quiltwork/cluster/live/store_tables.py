"""The tables of a cluster's store: how records become columns, and what SQLite's errors mean."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from quiltwork.cluster.log import Action, Row
from quiltwork.cluster.server import Pool, Server
from quiltwork.core.disk import disk_errors
from quiltwork.core.errors import BadInputError, CapacityError, CorruptionError, QuiltworkError

SCHEMA_VERSION = 1
APPLICATION = 0x51574330  # "QWC0": tells a cluster's store from any other SQLite file.
# Figures have no declared type: a whole number stays one, and a log read back is the log that was written.
SCHEMA = """
CREATE TABLE meta       (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE servers    (id TEXT PRIMARY KEY, gpu_type TEXT NOT NULL, gpus INTEGER NOT NULL, pool TEXT NOT NULL)
                        WITHOUT ROWID;
CREATE TABLE whitelists (server TEXT PRIMARY KEY, side TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE moves      (request TEXT PRIMARY KEY, epoch INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE jobs       (id TEXT PRIMARY KEY, spec TEXT NOT NULL, state TEXT NOT NULL, submitted, started, ended,
                         exit INTEGER, retries INTEGER NOT NULL, more TEXT NOT NULL);
CREATE TABLE workers    (id TEXT PRIMARY KEY, job TEXT NOT NULL, server TEXT NOT NULL, slots TEXT NOT NULL,
                         state TEXT NOT NULL, pid INTEGER, started, more TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX workers_by_job ON workers (job);
CREATE TABLE log        (number INTEGER PRIMARY KEY, time, action TEXT NOT NULL, job TEXT NOT NULL,
                         servers TEXT NOT NULL, before INTEGER NOT NULL, after INTEGER NOT NULL,
                         gpus_own INTEGER NOT NULL, gpus_lent INTEGER NOT NULL, reason TEXT NOT NULL, cost, gain);
CREATE TABLE requests   (id TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID;
"""
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE}
_LARGEST = 1 << 63


@dataclass(frozen=True)
class JobRow:
    """A job that was submitted. spec : as its user wrote it. Times in seconds, None where it has not come to that.
    exit : code of the last worker that decided it. retries : how many it has used. more : JSON, of the controller."""

    id: str
    spec: str
    state: str
    submitted: float
    started: float | None = None
    ended: float | None = None
    exit: int | None = None
    retries: int = 0
    more: str = "{}"


@dataclass(frozen=True)
class WorkerRow:
    """A worker that was ordered. pid, started : of its program (``Process.pid``; when, in seconds), once it has one.
    more : JSON, the controller's own."""

    id: str
    job: str
    server: str
    slots: tuple[int, ...]
    state: str
    pid: int | None = None
    started: float | None = None
    more: str = "{}"


def _text(value: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadInputError("is not text that can be written", where=where) from error
    return value


def _number(value: float, where: str) -> float:
    """Any but NaN, which no database tells from nothing."""
    if math.isnan(value):
        raise BadInputError("is not a number", where=where)
    return _whole(value, where) if isinstance(value, int) else float(value)


def _whole(value: int, where: str) -> int:
    if not -_LARGEST <= value < _LARGEST:
        raise BadInputError(f"{value:.3g} is too large", where=where)
    return int(value)


def _maybe(value: float | None, where: str) -> float | None:
    return None if value is None else _number(value, where)


def server_columns(server: Server) -> tuple[Any, ...]:
    where = f"server {server.id}"
    return _text(server.id, where), _text(server.gpu_type, where), _whole(server.gpus, where), str(server.pool)


def server_of(row: Sequence[Any]) -> Server:
    return Server(row[0], row[1], row[2], Pool(row[3]))


def job_columns(job: JobRow) -> tuple[Any, ...]:
    """Raises BadInputError for what cannot be written."""
    where = f"job {job.id}"
    return (
        *(_text(job.id, where), _text(job.spec, where), _text(job.state, where)),
        *(_number(job.submitted, where), _maybe(job.started, where), _maybe(job.ended, where)),
        *(None if job.exit is None else _whole(job.exit, where), _whole(job.retries, where)),
        _text(job.more, where),
    )


def job_of(row: Sequence[Any]) -> JobRow:
    return JobRow(*row)


def worker_columns(worker: WorkerRow) -> tuple[Any, ...]:
    """Raises BadInputError for what cannot be written."""
    where = f"worker {worker.id}"
    pid = None if worker.pid is None else _whole(worker.pid, where)
    texts = (_text(text, where) for text in (worker.id, worker.job, worker.server))
    kept = _text(worker.state, where), pid, _maybe(worker.started, where), _text(worker.more, where)
    return (*texts, json.dumps(worker.slots), *kept)


def worker_of(row: Sequence[Any]) -> WorkerRow:
    return WorkerRow(row[0], row[1], row[2], tuple(json.loads(row[3])), row[4], row[5], row[6], row[7])


def row_columns(row: Row) -> tuple[Any, ...]:
    """Raises BadInputError for what cannot be written."""
    where = f"log: {row.action} {row.job}"
    return (
        *(_number(row.time, where), str(Action(row.action)), _text(row.job, where), json.dumps(row.servers)),
        *(_whole(row.before, where), _whole(row.after, where), _whole(row.gpus[0], where), _whole(row.gpus[1], where)),
        *(_text(row.reason, where), _number(row.cost, where), _number(row.gain, where)),
    )


def row_of(row: Sequence[Any]) -> Row:
    time, action, job, servers, before, after, own, lent, reason, cost, gain = row
    pairs = tuple((int(server), int(gpus)) for server, gpus in json.loads(servers))
    return Row(time, Action(action), job, pairs, before, after, (own, lent), reason, cost, gain)


def answer_columns(request: str, answer: str) -> tuple[str, str]:
    return _text(request, "request"), _text(answer, f"request {request}")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Has an error of SQLite or of the disk within told as one of ours."""
    try:
        with disk_errors(path):
            yield
    except sqlite3.Error as error:
        raise _explained(error, str(path)) from error


def _explained(error: sqlite3.Error, where: str) -> QuiltworkError:
    code = cast(int, getattr(error, "sqlite_errorcode", 0))
    if code in _FULL:
        return CapacityError("the disk is full", where=where, hint="free some space; nothing was changed")
    match code & 0xFF:
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return QuiltworkError("cannot be written", where=where, hint="see who may write this file and its folder")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return CorruptionError(f"is no store, or damaged: {error}", where=where, hint="put back a copy of it")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return CapacityError("another program has it locked", where=where, hint="try again")
    return QuiltworkError(f"the store failed: {error}", where=where)
