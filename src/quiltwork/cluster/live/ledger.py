"""Which workers were ordered and what became of them, in a folder: whoever takes over from a process that was killed
knows what that one knew. A record is a file, and is replaced whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from quiltwork.cluster.live.backend import Gang, WorkerOrder
from quiltwork.cluster.live.process import Process
from quiltwork.core.disk import disk_errors, sync
from quiltwork.core.errors import CorruptionError, QuiltworkError


@dataclass(frozen=True)
class Exit:
    """How a worker ended. at : seconds since the machine's boot."""

    code: int | None
    signal: int | None
    why: str
    at: float


@dataclass(frozen=True)
class Record:
    """An order, and what came of it. mark : a word that all of its processes have among their variables."""

    order: WorkerOrder
    mark: str
    process: Process | None = None
    exit: Exit | None = None


class Ledger:
    """The records of one folder. One process at a time may write.

    A worker's record stays until its end was dealt with; its id stays for ever. Raises CorruptionError for a folder
    that holds something else.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ids = folder / "ended"
        with disk_errors(folder):
            (folder / "workers").mkdir(parents=True, exist_ok=True)
        self.records = read_records(folder)
        self._ended = ended_ids(folder)
        self._unsaved: set[str] = set()
        """Workers whose records are not on the disk as they are."""
        self._dealt_with: set[str] = set()
        """Workers whose records may go."""

    def known(self, worker_id: str) -> bool:
        """Whether it was ever ordered."""
        return worker_id in self.records or worker_id in self._ended

    def put(self, record: Record) -> None:
        """Write a record down, on the disk when this returns. Raises CapacityError where it is full."""
        id = record.order.worker_id
        path = self._path(id)
        aside = path.with_suffix(".new")
        try:
            with disk_errors(path):
                with open(aside, "w", encoding="utf-8") as file:
                    json.dump(_document(record), file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(aside, path)
                sync(path.parent)
        except QuiltworkError:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise
        self.records[id] = record

    def keep(self, record: Record) -> QuiltworkError | None:
        """Write down what is so, whether or not there is room on the disk: where there is none it is remembered, and
        tried again by ``catch_up``. Returns the error where it is the first."""
        id = record.order.worker_id
        self.records[id] = record
        try:
            self.put(record)
        except QuiltworkError as error:
            first = not self._unsaved
            self._unsaved.add(id)
            return error if first else None
        self._unsaved.discard(id)
        return None

    def deal_with(self, worker_ids: Iterable[str]) -> None:
        """Whoever ordered these workers knows of their ends: their records may go, their ids stay known."""
        self._dealt_with |= self.records.keys() & set(worker_ids)
        self.catch_up()

    def catch_up(self) -> None:
        """Write what could not be written before, as far as that goes now."""
        with suppress(QuiltworkError):  # was told when it began; the next time, then
            for id in sorted(self._unsaved):
                self.put(self.records[id])
                self._unsaved.discard(id)
            for id in sorted(self._dealt_with):
                self._forget(id)
                self._dealt_with.discard(id)

    def _forget(self, worker_id: str) -> None:
        with disk_errors(self._ids):
            with open(self._ids, "a", encoding="utf-8") as file:
                # The line before may be half of one, where the disk was full or the power failed.
                file.write(f"\n{worker_id}\n")
                file.flush()
                os.fsync(file.fileno())
            self._path(worker_id).unlink(missing_ok=True)
        self._ended.add(worker_id)
        del self.records[worker_id]

    def withdraw(self, worker_id: str) -> None:
        """Remove the record of an order that was not carried out, as if it had not been made."""
        with disk_errors(self._folder):
            self._path(worker_id).unlink(missing_ok=True)
        self.records.pop(worker_id, None)

    def _path(self, worker_id: str) -> Path:
        # An id may be longer than a file's name, and have slashes.
        return self._folder / "workers" / f"{hashlib.blake2b(worker_id.encode(), digest_size=16).hexdigest()}.json"


def ended_ids(folder: Path) -> set[str]:
    """Ids of a folder's workers whose records are gone."""
    try:
        text = (folder / "ended").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return set()
    return set(text.split("\n")) - {""}


def read_records(folder: Path) -> dict[str, Record]:
    """A folder's records by worker, also while another process writes them. Raises CorruptionError."""
    found = {}
    for path in sorted((folder / "workers").glob("*.json")):
        try:
            record = _read(path)
        except FileNotFoundError:  # it was dealt with meanwhile
            continue
        found[record.order.worker_id] = record
    return found


def _read(path: Path) -> Record:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        order = order_of(found["order"])
        process = None if found["process"] is None else Process(*found["process"])
        exit = None if found["exit"] is None else Exit(**found["exit"])
        return Record(order, found["mark"], process, exit)
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptionError("not the record of a worker", where=str(path)) from error


def document_of(order: WorkerOrder) -> dict[str, Any]:
    """An order as JSON."""
    return asdict(replace(order, env=dict(order.env)))


def order_of(document: dict[str, Any]) -> WorkerOrder:
    """Raises TypeError or KeyError for what is no order."""
    gang = document["gang"]
    return WorkerOrder(
        **{
            **document,
            "slots": tuple(document["slots"]),
            "argv": tuple(document["argv"]),
            "gang": None if gang is None else Gang(gang["id"], tuple(gang["servers"]), gang["index"]),
        }
    )


def _document(record: Record) -> dict[str, Any]:
    exit = None if record.exit is None else asdict(record.exit)
    return {"order": document_of(record.order), "mark": record.mark, "process": record.process, "exit": exit}
