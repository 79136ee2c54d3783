"""Groups that are being connected while the worker does something else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch

from quiltwork.cluster.elastic import message as m
from quiltwork.cluster.elastic.group import Group, join, serve_store
from quiltwork.cluster.elastic.settings import WorkerSettings
from quiltwork.core.errors import QuiltworkError


@dataclass
class Joined:
    """What a plan means for one worker, connected."""

    plan: m.Plan
    compute: Group | None = None
    """The members; None where this worker is none, or the only one."""
    transfer: Group | None = None
    """Who has the state, with rank 0, and those who get it; None for all others."""


class Joining:
    """Connects a worker with the others of each plan that it is told of, in a thread for each.

    ``void`` says of a plan's generation whether it was abandoned; ``say`` tells the link how it went.
    """

    def __init__(
        self, settings: WorkerSettings, void: Callable[[int], bool], say: Callable[[m.FromWorker], None]
    ) -> None:
        self._settings, self._void, self._say = settings, void, say
        self._lock = threading.Lock()
        self._joined: dict[int, Joined] = {}
        self._wanted: set[int] = set()
        self._store: object = None

    def offer(self) -> str:
        """Serve a store for whoever is told to meet there; its ``host:port``."""
        self._store, address = serve_store(self._settings.host)
        return address

    def prepare(self, plan: m.Plan) -> None:
        """Begin to connect; ``Prepared`` or ``Unprepared`` is said when it is over."""
        with self._lock:
            self._wanted.add(plan.generation)
        threading.Thread(target=self._join, args=(plan,), name="elastic-joining", daemon=True).start()

    def drop(self, generation: int) -> None:
        """Leave the groups of a plan that will not happen."""
        with self._lock:
            self._wanted.discard(generation)
            self._joined.pop(generation, None)

    def drop_upto(self, generation: int | None) -> None:
        """Leave the groups of all plans up to that one, or of all; but not those that are in use."""
        with self._lock:
            for one in [one for one in self._wanted if generation is None or one <= generation]:
                self._wanted.discard(one)
                self._joined.pop(one, None)

    def take(self, generation: int) -> Joined | None:
        """The groups of a plan, to be used now; None where they were dropped."""
        with self._lock:
            self._wanted.discard(generation)
            return self._joined.pop(generation, None)

    def _join(self, plan: m.Plan) -> None:
        me, generation = self._settings.worker, plan.generation
        joined = Joined(plan)
        try:
            if me in plan.members and len(plan.members) > 1:
                joined.compute = self._group(plan, "compute", plan.members, self._settings.backend)
            moving = (plan.source, *plan.receivers)
            if plan.receivers and me in moving:
                # A state lies in the main memory whatever computes it.
                joined.transfer = self._group(plan, "transfer", moving, "gloo")
        except QuiltworkError as error:
            with self._lock:
                wanted = generation in self._wanted
            if wanted:
                self._say(m.Unprepared(generation, str(error)))
            return
        with self._lock:
            if generation not in self._wanted:
                return
            self._joined[generation] = joined
        self._say(m.Prepared(generation))

    def _group(self, plan: m.Plan, what: str, names: tuple[str, ...], backend: str) -> Group:
        settings, generation = self._settings, plan.generation
        return join(
            plan.store,
            f"{settings.job}/{generation}/{what}",
            names.index(settings.worker),
            len(names),
            host=settings.host,
            backend=backend,
            device=torch.device(settings.device),
            connect_s=settings.connect_s,
            collective_s=settings.collective_s,
            stopped=lambda: self._void(generation),
        )
