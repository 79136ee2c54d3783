"""A backend, crews and a memory that are only lists: what the controller asks of them can be read, and answered."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from quiltwork.cluster.live.backend import ServerInfo, WorkerExited
from quiltwork.cluster.live.controller import Controller
from quiltwork.cluster.live.desk import Desk
from quiltwork.cluster.live.memory import Recalled
from quiltwork.cluster.live.orders import OrderBook
from quiltwork.cluster.live.settings import Settings
from quiltwork.cluster.policy.rules import rules_named
from quiltwork.cluster.server import Pool, Server
from quiltwork.core.errors import CapacityError, ConflictError


class Clock:
    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


@dataclass
class ListedBackend:
    """Workers start at once, and leave when a test says so. A slot is never given to two of them."""

    sizes: dict
    clock: Clock
    living: dict = field(default_factory=dict)
    orders: dict = field(default_factory=dict)
    stops: list = field(default_factory=list)
    fenced: set = field(default_factory=set)
    lost: set = field(default_factory=set)
    told: list = field(default_factory=list)
    given: list = field(default_factory=list)
    """What the last call of ``events`` gave: dealt with at the next."""
    refuse: bool = False

    def servers(self):
        return [
            ServerInfo(name, "V100", gpus, name not in self.lost, 0.0, name in self.fenced)
            for name, gpus in self.sizes.items()
        ]

    def start_worker(self, order):
        if order.worker_id in self.orders:
            return
        if self.refuse:
            raise CapacityError("no")
        taken = {slot for o in self.living.values() if o.server_id == order.server_id for slot in o.slots}
        if taken & set(order.slots) or order.server_id in self.fenced | self.lost:
            raise ConflictError("the slot is taken, or the server is fenced")
        self.orders[order.worker_id] = self.living[order.worker_id] = order

    def stop_worker(self, worker_id, grace_s=None):
        self.stops.append(worker_id)

    def fence(self, server_id):
        self.fenced.add(server_id)

    def unfence(self, server_id):
        self.fenced.discard(server_id)

    def events(self, timeout_s=0.0):
        self.given, self.told = self.told, []
        return list(self.given)

    def tell_again(self):
        """Another controller comes: it is told what the one before may not have dealt with."""
        self.told, self.given = self.given + self.told, []

    def exit(self, worker_id, code=0, signal=None, why=""):
        """A worker's last process is gone."""
        del self.living[worker_id]
        self.told.append(WorkerExited(worker_id, code, signal, self.clock.now, why))

    def obey(self):
        """Whoever was asked to stop is gone."""
        for worker_id in self.stops:
            if worker_id in self.living:
                self.exit(worker_id, None, 15)
        self.stops.clear()


@dataclass
class ListedCrews:
    wanted: dict = field(default_factory=dict)
    said: list = field(default_factory=list)
    forgotten: list = field(default_factory=list)

    def want(self, job, members):
        self.wanted[job] = tuple(members)

    def forget(self, job):
        self.wanted.pop(job, None)
        self.forgotten.append(job)

    def reports(self):
        said, self.said = self.said, []
        return said


@dataclass
class ListedMemory:
    """Keeps copies, as a disk does. ``full`` : it takes nothing more."""

    servers: tuple = ()
    rows: list = field(default_factory=list)
    entries: dict = field(default_factory=dict)
    workers: dict = field(default_factory=dict)
    requests: dict = field(default_factory=dict)
    training: set = field(default_factory=set)
    moves: list = field(default_factory=list)
    full: bool = False

    def recall(self, servers):
        if not self.servers:
            self.servers = tuple(servers)
        return Recalled(
            self.servers,
            tuple(self.rows),
            [copy.deepcopy(entry) for entry in self.entries.values()],
            [copy.deepcopy(worker) for worker in self.workers.values()],
        )

    def _check(self):
        if self.full:
            raise CapacityError("the disk is full")

    def append(self, rows, entries, gone=()):
        self._check()
        self.rows += rows
        for entry in entries:
            self.entries[entry.id] = copy.deepcopy(entry)
        for worker_id in gone:
            self.workers.pop(worker_id, None)

    def keep_workers(self, workers, entry=None):
        self._check()
        if entry is not None:
            self.entries[entry.id] = copy.deepcopy(entry)
        for worker in workers:
            self.workers[worker.id] = copy.deepcopy(worker)

    def move(self, server, *, to_training):
        self._check()
        self.moves.append((server, to_training))

    def remember(self, request, job):
        self._check()
        self.requests[request] = job

    def job_of(self, request):
        return self.requests.get(request)


COMMAND = "name: {name}\ncommand: [run, it]\nworkers: {workers}\n"
ELASTIC = "name: {name}\ntrainable: module:factory\nworkers: {{min: {least}, max: {most}}}\nest_duration: 10m\n{more}"


class ListedWorld:
    """A controller over lists. ``step`` lets time pass."""

    def __init__(self, tmp_path, policy="lyra", train=2, infer=0, gpus=4, lender=None, settings=None, **rules):
        self.clock = Clock()
        self.servers = [Server(f"train-{i}", "V100", gpus, Pool.TRAIN) for i in range(train)]
        self.servers += [Server(f"infer-{i}", "V100", gpus, Pool.INFER) for i in range(infer)]
        self.backend = ListedBackend({server.id: gpus for server in self.servers}, self.clock)
        self.crews, self.memory, self.lender = ListedCrews(), ListedMemory(), lender
        self.settings = Settings(
            rules=rules_named(policy, **rules), gpu_types=("V100",), share_every_s=1.0, **(settings or {})
        )
        self.book = OrderBook(tmp_path, lambda entry, worker: (("train", worker), {"JOB": entry.id}), port=lambda: 1234)
        self.start()

    def start(self):
        """A controller of what is remembered; the one before is forgotten as a killed one is."""
        self.backend.tell_again()
        self.controller = Controller(
            self.servers, self.memory, self.backend, self.crews, self.book, self.settings,
            clock=self.clock, lender=self.lender,
        )  # fmt: skip
        self.desk = Desk(self.controller)

    def step(self, seconds=2.0, times=1):
        for _ in range(times):
            self.clock.now += seconds
            self.controller.step()

    def command(self, name="c", workers=1, more="", **options):
        return self.desk.submit(COMMAND.format(name=name, workers=workers) + more, **options)

    def elastic(self, name="e", least=1, most=4, more=""):
        return self.desk.submit(ELASTIC.format(name=name, least=least, most=most, more=more))

    def members(self, job):
        return [worker["id"] for worker in self.desk.job(job)["members"]]

    def state(self, job):
        return self.desk.job(job)["state"]

    def check(self):
        """No GPU has two workers, and none is on a server that is not training's."""
        taken = set()
        for order in self.backend.living.values():
            for slot in order.slots:
                assert (order.server_id, slot) not in taken
                taken.add((order.server_id, slot))
