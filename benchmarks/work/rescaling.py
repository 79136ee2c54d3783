"""A job that grows by a worker and gives it up again: on our cluster over either backend, and under Ray Train.

All of it happens in one process with a Ray cluster of one node; one arm runs at a time.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quiltwork.cluster.live.controller import Controller
from quiltwork.cluster.live.desk import Desk
from quiltwork.cluster.live.host import Host, open_host
from quiltwork.cluster.live.settings import Settings
from quiltwork.cluster.server import Pool, Server
from quiltwork.core.errors import QuiltworkError
from work.growing import Step, change, read_notes, taken

LOCAL, RAY, TRAIN = "local", "ray", "Ray Train"
LEAST, MOST = 2, 3
STEADY = 25
"""Steps before a change is asked for, and after it."""
EVERY = 20
"""Steps between two checkpoints of Ray Train."""
PATIENCE_S = 300.0
Changes = dict[str, dict[str, Any]]


class Machine:
    """One node that has a slot for each of MOST workers. width : of the network."""

    def __init__(self, folder: Path, width: int, seed: int) -> None:
        import ray
        from ray.cluster_utils import Cluster

        self._folder, self._config = folder, {"width": width, "seed": seed}
        resources = {"srv_a": 1, "V100": MOST}
        node = {"num_cpus": MOST, "include_dashboard": False, "resources": resources}
        self._cluster = Cluster(initialize_head=True, head_node_args=node)
        ray.init(address=self._cluster.address, namespace="quiltwork", log_to_driver=False, configure_logging=False)

    def change(self, arm: str, turn: int) -> Changes:
        """A fresh job in its stride with LEAST workers, one more, and one fewer: a ``Change`` for ``out`` and ``in``.

        Raises QuiltworkError where it does not come to that.
        """
        notes = self._folder / f"{arm.replace(' ', '-').lower()}-{turn}"
        notes.mkdir(parents=True)
        with self._train(notes) if arm == TRAIN else self._ours(notes, arm, turn) as (ask, check):
            watch = _Watch(notes, check)
            found: Changes = {}
            watch.until_steady(LEAST)
            for name, before, after in (("out", LEAST, MOST), ("in", MOST, LEAST)):
                asked = time.monotonic()
                ask(after)
                steps = watch.until_steady(after, asked)
                found[name] = asdict(change(steps, asked, before, after))
        return found

    @contextmanager
    def _ours(self, notes: Path, arm: str, turn: int) -> Iterator[tuple[Callable[[int], None], Callable[[], None]]]:
        address = self._cluster.address if arm == RAY else None
        host = Host(notes / "state", [Server("a", "V100", MOST, Pool.TRAIN)], Settings(share_every_s=1.0), ray=address)
        with open_host(host) as (controller, desk):
            try:
                with _running(controller):
                    neighbours = [desk.submit(_neighbour(turn))]
                    _until(lambda: desk.job(neighbours[0])["state"] == "running")
                    job = desk.submit(_growing(turn, notes, self._config))

                    def ask(workers: int) -> None:
                        if workers == MOST:
                            desk.cancel(neighbours.pop())
                        else:
                            neighbours.append(desk.submit(_neighbour(turn)))

                    def check() -> None:
                        shown = desk.job(job)
                        if shown["state"] not in ("queued", "running"):
                            raise QuiltworkError(f"the job is {shown['state']}: {shown['error']}", where=arm)

                    yield ask, check
                    _end(desk, [job, *neighbours])
            finally:
                controller.stop_workers(1.0)  # they would outlive it

    @contextmanager
    def _train(self, notes: Path) -> Iterator[tuple[Callable[[int], None], Callable[[], None]]]:
        from work.growing_ray import Neighbour, Run

        neighbour = Neighbour()
        neighbour.wants(MOST - LEAST)
        run = Run(notes, {**self._config, "every": EVERY}, LEAST, MOST)
        yield lambda workers: neighbour.wants(MOST - workers), run.check
        run.end(max(step.done for step in read_notes(notes)), PATIENCE_S)

    def close(self) -> None:
        """End Ray."""
        import ray

        ray.shutdown()
        self._cluster.shutdown()


class _Watch:
    """notes : a job's folder. check : raises where the job has come to an end."""

    def __init__(self, notes: Path, check: Callable[[], None]) -> None:
        self._notes, self._check = notes, check

    def until_steady(self, workers: int, since: float = 0.0) -> list[Step]:
        """Wait until STEADY steps were taken with so many workers, from ``since`` on; all steps so far."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            self._check()
            steps = read_notes(self._notes)
            if sum(at > since for (number, _), at in taken(steps).items() if number == workers) >= STEADY:
                return steps
            time.sleep(0.25)
        raise QuiltworkError(f"not {STEADY} steps with {workers} workers in {PATIENCE_S:g} s", where=self._notes.name)


def _neighbour(turn: int) -> str:
    """A job of one worker that goes before the one that is measured, and does nothing."""
    return json.dumps({"name": f"neighbour{turn}", "command": ["sleep", "3600"], "workers": 1, "est_duration": "1m"})


def _growing(turn: int, notes: Path, config: dict[str, Any]) -> str:
    return json.dumps(
        {
            "name": f"growing{turn}",
            "trainable": "work.growing:Growing",
            "config": {"width": config["width"], "notes": str(notes)},
            "seed": config["seed"],
            "workers": {"min": LEAST, "max": MOST},
            "env": {"PYTHONPATH": os.environ["PYTHONPATH"], "OMP_NUM_THREADS": "1"},
            "est_duration": "1h",
        }
    )


@contextmanager
def _running(controller: Controller) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=controller.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _end(desk: Desk, jobs: list[str]) -> None:
    for job in jobs:
        desk.cancel(job)
    _until(lambda: all(desk.job(job)["state"] == "cancelled" for job in jobs))


def _until(so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not so():
        if time.monotonic() > end:
            raise QuiltworkError("it did not come to that", where="cluster")
        time.sleep(0.1)
