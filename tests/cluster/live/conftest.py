"""Backends of both kinds, each in a world of its own."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal

import pytest
from live_world import World

KINDS = ["local", pytest.param("ray", marks=[pytest.mark.slow, pytest.mark.timeout(400)])]
_numbers = itertools.count()


class LocalWorld(World):
    def supervisor(self, server):
        """PID of a server's supervisor."""
        return self.backend._places[server].pid

    def close(self):
        for place in self.backend._places.values():
            with contextlib.suppress(ProcessLookupError):
                if place.pid is not None:  # a test that failed may have left it stopped
                    os.kill(place.pid, signal.SIGCONT)
        super().close()

    def lose(self, server):
        os.kill(self.supervisor(server), signal.SIGKILL)

    def bring_back(self, server):
        self.backend.start_server(server)


class RayWorld(World):
    def __init__(self, kind, folder, out, cluster):
        super().__init__(kind, folder, out)
        self._cluster = cluster
        self._nodes = {}

    def add_server(self, name):
        self._nodes[name] = self._cluster.add_node(num_cpus=1, resources={f"srv_{name}": 1, "V100": 4})

    def lose(self, server):
        self._cluster.remove_node(self._nodes.pop(server), allow_graceful=False)

    def bring_back(self, server):
        self.add_server(server)

    def close(self):
        super().close()
        for node in self._nodes.values():
            self._cluster.remove_node(node)


@pytest.fixture(params=KINDS)
def world(request, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    if request.param == "local":
        made = LocalWorld("local", tmp_path / "state", out)
    else:
        made = RayWorld("ray", tmp_path / "state", out, request.getfixturevalue("ray_cluster"))
    yield made
    made.close()


@pytest.fixture
def spare(world):
    """The name of a server that a test may lose."""
    if world.kind == "local":
        return "a"
    name = f"spare{next(_numbers)}"
    world.add_server(name)
    world.until(lambda event: getattr(event, "server_id", None) == name)
    return name


@pytest.fixture
def local(tmp_path):
    """Makes a local world, of its own backend or one that has this folder; what is left of it is ended."""
    made = []
    out = tmp_path / "out"
    out.mkdir()

    def make(backend=None):
        made.append(LocalWorld("local", tmp_path / "state", out, backend))
        return made[-1]

    yield make
    for world in made:
        world.close()
