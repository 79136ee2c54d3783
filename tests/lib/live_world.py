"""A backend under test, and the few words its tests need. Also run as a program: a controller that can be killed."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from pathlib import Path

from quiltwork.cluster.live.backend import WorkerExited, WorkerOrder, WorkerStarted, WorkerTrouble
from quiltwork.cluster.live.local import LocalBackend
from quiltwork.cluster.live.local_place import LocalSettings
from quiltwork.cluster.live.local_server import LocalServer
from quiltwork.cluster.live.process import read_stat

WITHIN_S = 90.0
LOCAL_SERVERS = (LocalServer("a", "V100", 4), LocalServer("b", "T4", 2))
QUICK = LocalSettings(beat_s=0.1, lost_s=30.0)
TAKES_TERM = "trap 'echo asked to go; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
IGNORES_TERM = "trap '' TERM; echo ready; while :; do sleep 0.05; done"
_worlds = itertools.count()
SLOT_WORKER = Path(__file__).with_name("slot_worker.py")


def open_backend(kind, folder, address=""):
    """The same backend that another process may have had before."""
    if kind == "local":
        return LocalBackend(folder, LOCAL_SERVERS, clock=time.monotonic, settings=QUICK)
    from quiltwork.cluster.live.ray_backend import RayBackend

    return RayBackend(folder, address or "auto", clock=time.monotonic, look_s=0.2)


def runs(pid):
    """Whether there is such a process, and it has not ended."""
    stat = read_stat(pid)
    return stat is not None and stat.state not in "ZX"


class World:
    """kind : of backend. folder : the backend's. out : where workers' logs are. backend : None makes one."""

    def __init__(self, kind, folder, out, backend=None):
        self.kind, self.folder, self.out = kind, folder, out
        self.backend = backend or open_backend(kind, folder)
        self.seen = []
        self._number = next(_worlds)

    def id(self, name):
        """A worker's id, which no other world of this process and its Ray cluster has."""
        return f"{name}.{os.getpid()}.{self._number}"

    def order(self, name, script="exit 0", *, server="a", slots=(0,), **more):
        """A worker that is a shell script."""
        argv = more.pop("argv", ("sh", "-c", script))
        log = more.pop("log", str(self.out / f"{name}.log"))
        return WorkerOrder(self.id(name), "job", server, tuple(slots), argv, log, **more)

    def start(self, name, script="exit 0", **more):
        self.backend.start_worker(self.order(name, script, **more))

    def stop(self, name, grace_s=None):
        self.backend.stop_worker(self.id(name), grace_s)

    def until(self, wanted):
        """The first event from the last ``until`` on that is wanted."""
        until = time.monotonic() + WITHIN_S
        while time.monotonic() < until:
            for event in self.backend.events(1.0):
                self.seen.append(event)
            for i, event in enumerate(self.seen):
                if wanted(event):
                    del self.seen[i]
                    return event
        raise AssertionError(f"this did not come: only {self.seen}")

    def started(self, name):
        return self.until(lambda e: isinstance(e, WorkerStarted) and e.worker_id == self.id(name))

    def exited(self, name):
        return self.until(lambda e: isinstance(e, WorkerExited) and e.worker_id == self.id(name))

    def trouble(self, name):
        return self.until(lambda e: isinstance(e, WorkerTrouble) and e.worker_id == self.id(name))

    def printed(self, name, text):
        """Wait until a worker has printed something; all that it has."""
        until = time.monotonic() + WITHIN_S
        while time.monotonic() < until:
            if text in (found := self.log(name)):
                return found
            self.seen += self.backend.events(0.05)
        raise AssertionError(f"{text!r} is not in the log: {self.log(name)!r}")

    def log(self, name):
        path = self.out / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def run(self, name, script, **more):
        """Start a worker and have it print ``ready``; its process."""
        self.start(name, script, **more)
        process = self.started(name).process
        self.printed(name, "ready")
        return process

    def busy(self):
        """Worker and slots of all of which something is left."""
        return {worker.worker_id.split(".")[0]: worker.slots for worker in self.backend.workers()}

    def reopen(self):
        self.backend.close()
        self.backend = open_backend(self.kind, self.folder)
        self.seen = []

    def close(self):
        try:
            self.backend.shutdown(0.0)
        finally:
            self.backend.close()


def main():
    """Carry out orders, tell the events as they come, and wait to be killed."""
    kind, folder, address, orders = sys.argv[1:]
    backend = open_backend(kind, folder, address)
    for order in json.loads(orders):
        backend.start_worker(WorkerOrder(**{**order, "slots": tuple(order["slots"]), "argv": tuple(order["argv"])}))
    while True:
        for event in backend.events(1.0):
            print(type(event).__name__, getattr(event, "worker_id", ""), flush=True)
        if os.getppid() == 1:
            return


if __name__ == "__main__":
    main()
