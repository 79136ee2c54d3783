"""The controller's memory in a store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from quiltwork.cluster.live.backend import Gang, WorkerOrder
from quiltwork.cluster.live.entries import Entry, JobState, Worker
from quiltwork.cluster.live.memory import Recalled
from quiltwork.cluster.live.store import Store
from quiltwork.cluster.live.store_tables import JobRow, WorkerRow
from quiltwork.cluster.log import Action, Row
from quiltwork.cluster.server import Pool, Server, Whitelists
from quiltwork.cluster.spec import parse_spec
from quiltwork.core.errors import ConflictError, CorruptionError
from quiltwork.core.servable import Json


class StoreMemory:
    """``Memory`` in a store: see there."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def recall(self, servers: Sequence[Server]) -> Recalled:
        """Raises ConflictError where a cluster that is there has other servers, CorruptionError where it is damaged."""
        known = {server.id: server for server in self._store.servers()}
        if not known:
            with self._store.transaction() as change:
                for server in servers:
                    change.put_server(server)
                change.set_whitelists(
                    Whitelists(
                        frozenset(s.id for s in servers if s.pool is Pool.TRAIN),
                        frozenset(s.id for s in servers if s.pool is not Pool.TRAIN),
                    )
                )
            known = {server.id: server for server in servers}
        if known.keys() != {server.id for server in servers} or any(known[s.id] != s for s in servers):
            raise ConflictError(
                f"this cluster has other servers: {', '.join(sorted(known))}", where=str(self._store.path),
                hint="start it with those, or take another folder",
            )  # fmt: skip
        rows = self._store.log()
        # Rows tell servers by number: by their place in the log.
        order = [row.job for row in rows if row.action is Action.SERVER] or [server.id for server in servers]
        try:
            entries = [_entry(row) for row in self._store.jobs()]
            workers = [_worker(row) for row in self._store.workers()]
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptionError(f"a job or worker cannot be read: {error}", where=str(self._store.path)) from error
        workers.sort(key=lambda worker: (worker.job, worker.run, int(worker.id.rpartition(".")[2])))
        return Recalled([known[id] for id in order], rows, entries, workers)

    def append(self, rows: Sequence[Row], entries: Iterable[Entry], gone: Iterable[str] = ()) -> None:
        """As ``Memory`` says."""
        with self._store.transaction() as change:
            change.append(rows)
            for entry in entries:
                change.put_job(_job_row(entry))
            for worker_id in gone:
                change.drop_worker(worker_id)

    def keep_workers(self, workers: Iterable[Worker], entry: Entry | None = None) -> None:
        """As ``Memory`` says."""
        with self._store.transaction() as change:
            if entry is not None:
                change.put_job(_job_row(entry))
            for worker in workers:
                change.put_worker(_worker_row(worker))

    def move(self, server: str, *, to_training: bool) -> None:
        """As ``Memory`` says."""
        with self._store.transaction() as change:
            now = change.whitelists()
            if server in (now.training if to_training else now.inference):
                return
            moved = change.lend if to_training else change.give_back
            moved([server], epoch=now.epoch, request=f"{server}:{now.epoch}")

    def remember(self, request: str, job: str) -> None:
        """As ``Memory`` says."""
        with self._store.transaction() as change:
            change.put_answer(request, job)

    def job_of(self, request: str) -> str | None:
        """As ``Memory`` says."""
        return self._store.answer(request)


_MORE = ("error", "runs", "finished", "over", "ordered")


def _job_row(entry: Entry) -> JobRow:
    more: dict[str, Json] = {name: getattr(entry, name) for name in _MORE}
    more["outcome"] = None if entry.outcome is None else str(entry.outcome)
    return JobRow(
        entry.id, entry.text, str(entry.state), entry.submit_s, entry.started_s, entry.ended_s, entry.exit_code,
        entry.retries, json.dumps(more),
    )  # fmt: skip


def _entry(row: JobRow) -> Entry:
    more = json.loads(row.more)
    return Entry(
        row.id,
        row.spec,
        parse_spec(row.spec, f"job {row.id}"),
        row.submitted,
        JobState(row.state),
        None if more["outcome"] is None else JobState(more["outcome"]),
        row.started,
        row.ended,
        row.retries,
        row.exit,
        **{name: more[name] for name in _MORE},
    )


def _worker_row(worker: Worker) -> WorkerRow:
    more = {"run": worker.run, "leaving_until": worker.leaving_until, "order": asdict(worker.order)}
    state = "leaving" if worker.leaving_until is not None else "ordered"
    return WorkerRow(worker.id, worker.job, worker.server, worker.order.slots, state, more=json.dumps(more))


def _worker(row: WorkerRow) -> Worker:
    more = json.loads(row.more)
    order = dict(more["order"])
    gang = order.pop("gang")
    order["slots"], order["argv"] = tuple(order["slots"]), tuple(order["argv"])
    order["gang"] = None if gang is None else Gang(gang["id"], tuple(gang["servers"]), gang["index"])
    return Worker(row.id, row.job, row.server, more["run"], WorkerOrder(**order), more["leaving_until"])
