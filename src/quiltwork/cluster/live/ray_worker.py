"""What runs on the nodes of a Ray cluster: an actor beside each worker, which has its keeper."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from quiltwork.cluster.live.keeping import KeptWorker
from quiltwork.cluster.live.ledger import order_of
from quiltwork.cluster.live.process import Process, remains
from quiltwork.cluster.live.slots import hold, holders, release
from quiltwork.core.disk import disk_errors
from quiltwork.core.errors import ConflictError, QuiltworkError

LOCK_SECONDS = 30.0
"""How long a slot may be held by what is left of a worker that Ray thinks is gone."""
POLL_S = 0.05
_RAYS_OWN = ("OMP_NUM_THREADS",)
"""Variables that Ray sets for its actors, and a worker should not have of them."""


def lock_folder(cluster: str) -> Path:
    """Where the locks of a node's slots are: on the node's own disk, for one user."""
    return Path(tempfile.gettempdir()) / f"quiltwork-slots-{os.getuid()}" / cluster.replace("/", "_")


class WorkerActor:
    """One worker. It is started with the actor, so that no controller need be there for that.

    order : as a document. mark, devices : see ``KeptWorker``. cluster : slots are locked within it.
    """

    def __init__(self, order: dict[str, Any], mark: str, devices: tuple[int, ...] | None, cluster: str) -> None:
        self._order, self._mark, self._devices, self._cluster = order_of(order), mark, devices, cluster
        self._changed = threading.Condition()
        """Guards what follows."""
        self._news: list[dict[str, Any]] = []
        self._asker = ""
        self._kept: KeptWorker | None = None
        self._stop_s: float | None = None
        self._tell({"kind": "created"})
        threading.Thread(target=self._work, daemon=True).start()

    def news(self, after: int, asker: str) -> list[dict[str, Any]]:
        """What has happened, from the one after number ``after`` on; waits for it, until somebody else asks."""
        with self._changed:
            self._asker = asker
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._news) > after or self._asker != asker)
            now = time.monotonic()
            return [{**one, "ago": now - one["at"]} for one in self._news[after:]]

    def stop(self, grace_s: float | None) -> None:
        """See ``Backend.stop_worker``."""
        seconds = self._order.grace_s if grace_s is None else grace_s
        with self._changed:
            self._stop_s = seconds if self._stop_s is None else min(seconds, self._stop_s)
            self._changed.notify_all()
            if self._kept is not None:
                self._kept.stop(seconds)

    def _tell(self, what: dict[str, Any]) -> None:
        with self._changed:
            self._news.append({"at": time.monotonic(), **what})
            self._changed.notify_all()

    def _work(self) -> None:
        ended = {"code": None, "signal": None, "why": ""}
        try:
            ended = self._run()
        except QuiltworkError as error:
            ended["why"] = str(error)
        self._tell({"kind": "exited", **ended})

    def _run(self) -> dict[str, Any]:
        """Until nothing of the worker is left; how it ended. Raises QuiltworkError where it could not begin."""
        held = self._hold()
        if held is None:
            return {"code": None, "signal": None, "why": "stopped before it began"}
        variables = {name: value for name, value in os.environ.items() if name not in _RAYS_OWN}
        try:
            # Ray kills an actor's children with it, and would a keeper before that has killed its worker.
            kept = KeptWorker(self._order, self._mark, self._devices, held, variables, 2, detached=True)
        finally:
            release(held)
        with self._changed:
            self._kept = kept
            if self._stop_s is not None:
                kept.stop(self._stop_s)
        process, ended = None, None
        while not kept.silent:
            for answer in kept.answers():
                if "started" in answer:
                    process = Process(*answer["started"])
                    self._tell({"kind": "started", "process": process})
                elif "trouble" in answer:
                    self._tell({"kind": "trouble", "what": answer["trouble"]})
                else:
                    ended = answer["ended"]
        kept.process.wait()
        if ended is not None:
            return dict(ended)
        self._tell({"kind": "trouble", "what": "its keeper was killed; what is left of it is killed too"})
        while clear(self._mark, process):
            time.sleep(POLL_S)
        return {"code": None, "signal": None, "why": "its keeper was killed"}

    def _hold(self) -> list[int] | None:
        """The locks of its slots; None where it was stopped meanwhile. Raises ConflictError."""
        folder = lock_folder(self._cluster)
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                return hold(folder, self._order.server_id, self._order.slots, self._mark)
            except ConflictError:
                if time.monotonic() > until:
                    raise
            # Who was there before is gone as far as the cluster can tell, or this would not have been ordered.
            for mark in holders(folder, self._order.server_id, self._order.slots) - {self._mark}:
                clear(mark, None)
            with self._changed:
                if self._changed.wait_for(lambda: self._stop_s is not None, POLL_S):
                    return None


class Prober:
    """Sees to a worker whose actor is gone, on the node where it ran."""

    def clear(self, mark: str, leader: Process | None) -> int:
        """Kill what is left; how many processes are."""
        return clear(mark, leader)


def clear(mark: str, leader: Process | None) -> int:
    """Kill what is left of a worker, and say how many processes there were. Its keeper ends by itself."""
    left = remains(mark, leader)
    for pid in left.others:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(left.keepers) + len(left.others)
