"""Servers of this machine: what happens to their supervisors, keepers, folders and disks."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from live_world import IGNORES_TERM, LOCAL_SERVERS, QUICK, TAKES_TERM, runs

from quiltwork.cluster.live.backend import ServerBack, ServerLost, WorkerExited, WorkerState, WorkerTrouble
from quiltwork.cluster.live.local import LocalBackend
from quiltwork.cluster.live.local_server import LocalServer, parse_servers
from quiltwork.cluster.live.process import KEEPER_MARK, Process, processes
from quiltwork.cluster.live.slots import hold, release
from quiltwork.core.errors import BadInputError, CapacityError, ConflictError, CorruptionError


def keeper_of(world, process):
    """PID of the keeper whose child a worker's program is."""
    (parent,) = [stat.parent for stat in processes() if stat.pid == process.pid]
    assert KEEPER_MARK.encode() in Path(f"/proc/{parent}/environ").read_bytes()
    return parent


def record_of(world, name):
    """The file of a worker's record."""
    id = hashlib.blake2b(world.id(name).encode(), digest_size=16).hexdigest()
    return world.folder / "servers" / "a" / "workers" / f"{id}.json"


def test_when_a_keeper_is_killed_all_of_its_worker_is_and_its_slots_are_free_only_then(local):
    world = local()
    hidden = f"setsid env -i sh -c 'trap \"\" TERM; echo $$ > {world.out}/pid; while :; do sleep 0.05; done' &"
    wait = f"while [ ! -s {world.out}/pid ]; do sleep 0.05; done;"
    process = world.run("w", f"{hidden} {wait} {IGNORES_TERM}")
    beside = world.run("beside", TAKES_TERM, slots=(1,))
    os.kill(keeper_of(world, process), signal.SIGKILL)
    assert "keeper was killed" in world.trouble("w").what
    ended = world.exited("w")
    assert (ended.code, ended.signal, ended.why) == (None, None, "its keeper was killed")
    assert not process.alive()
    assert not runs(int((world.out / "pid").read_text()))
    assert beside.alive()
    world.start("x")
    assert world.exited("x").code == 0


def test_a_supervisor_that_falls_silent_is_lost_and_is_back_when_it_speaks(local, tmp_path):
    now = [0.0]
    settings = replace(QUICK, lost_s=3.0)
    backend = LocalBackend(tmp_path / "state", LOCAL_SERVERS, clock=lambda: now[0], settings=settings)
    world = local(backend)
    process = world.run("w", TAKES_TERM)
    supervisor = world.supervisor("a")
    os.kill(supervisor, signal.SIGSTOP)
    until = time.monotonic() + 60
    found = []
    while not found and time.monotonic() < until:
        if {server.id: server.silent_s for server in backend.servers()}["b"] == 0.0:
            now[0] += 1.0  # the other server is heard of between any two of these
        found = [event for event in backend.events(0.2) if isinstance(event, ServerLost)]
    assert [event.server_id for event in found] == ["a"]
    (worker,) = backend.workers()
    assert (worker.state, worker.process) == (WorkerState.LOST, process)
    assert process.alive()
    with pytest.raises(ConflictError, match="the server is lost"):
        world.start("x", slots=(1,))
    backend.fence("a")
    world.stop("w")
    os.kill(supervisor, signal.SIGCONT)
    assert world.until(lambda event: isinstance(event, ServerBack)).server_id == "a"
    assert world.exited("w").code == 5  # what it was told meanwhile it has heard
    with pytest.raises(ConflictError, match="fenced"):
        world.start("x")


def test_an_order_that_nobody_answered_is_known_for_certain_when_the_server_is_back(local, tmp_path):
    settings = replace(QUICK, answer_s=0.5)
    world = local(LocalBackend(tmp_path / "state", LOCAL_SERVERS, clock=time.monotonic, settings=settings))
    supervisor = world.supervisor("a")
    os.kill(supervisor, signal.SIGSTOP)
    with pytest.raises(ConflictError, match="lost"):
        world.start("w", TAKES_TERM)
    with pytest.raises(ConflictError, match="another server, which has not answered"):
        world.start("w", TAKES_TERM, server="b")
    os.kill(supervisor, signal.SIGCONT)
    world.until(lambda event: isinstance(event, ServerBack))
    world.start("w", TAKES_TERM)
    world.started("w")
    assert world.busy() == {"w": (0,)}
    assert not any(isinstance(event, WorkerExited) for event in world.seen)


def test_a_supervisor_that_is_killed_with_a_keeper_leaves_its_worker_to_the_next(local):
    """Nobody is left who knows of the worker's second process but the kernel, and the mark it was started with."""
    world = local()
    hidden = f"setsid sh -c 'trap \"\" TERM; echo $$ > {world.out}/pid; while :; do sleep 0.05; done' &"
    process = world.run("w", f"{hidden} while [ ! -s {world.out}/pid ]; do sleep 0.05; done; {IGNORES_TERM}")
    pid = int((world.out / "pid").read_text())
    os.kill(world.supervisor("a"), signal.SIGSTOP)
    os.kill(keeper_of(world, process), signal.SIGKILL)
    world.lose("a")
    world.until(lambda event: isinstance(event, ServerLost))
    assert runs(pid)
    assert world.busy() == {"w": (0,)}
    world.bring_back("a")
    ended = world.exited("w")
    assert (ended.code, ended.why) == (None, "its server was lost")
    assert not runs(pid)
    assert not process.alive()


def test_a_slot_whose_lock_somebody_holds_is_taken_though_nobody_knows_why(local):
    world = local()
    held = hold(world.folder / "servers" / "a", "a", [2], "mine")
    with pytest.raises(ConflictError, match="slot 2 is held by a process"):
        world.start("w", slots=(2, 3))
    release(held)
    world.start("w", slots=(2, 3))
    assert world.exited("w").code == 0


def test_two_controllers_do_not_have_one_folder(local):
    world = local()
    with pytest.raises(ConflictError, match="another controller"):
        LocalBackend(world.folder, LOCAL_SERVERS, clock=time.monotonic)


def test_a_server_that_is_known_is_there_and_cannot_be_declared_otherwise(local):
    world = local()
    world.backend.close()
    with pytest.raises(ConflictError, match="server b: is known with 2 T4, not 3 T4"):
        LocalBackend(world.folder, [LocalServer("b", "T4", 3)], clock=time.monotonic)
    world.backend = LocalBackend(world.folder, [LocalServer("c", "A100", 1)], clock=time.monotonic, settings=QUICK)
    assert [server.id for server in world.backend.servers()] == ["a", "b", "c"]


def test_a_folder_that_holds_something_else_is_told(tmp_path):
    (tmp_path / "state" / "servers" / "x").mkdir(parents=True)
    with pytest.raises(CorruptionError, match="does not say what server this is"):
        LocalBackend(tmp_path / "state", clock=time.monotonic)


def test_a_supervisor_that_cannot_start_is_told_with_where_to_look(tmp_path):
    LocalBackend(tmp_path / "state", [LocalServer("a", "V100", 1)], clock=time.monotonic).shutdown(0.0)
    (tmp_path / "state" / "servers" / "a" / "workers" / "x.json").write_text("{}")
    with pytest.raises(CorruptionError, match="not the record of a worker"):
        LocalBackend(tmp_path / "state", clock=time.monotonic)
    (tmp_path / "state" / "servers" / "a" / "workers" / "x.json").unlink()
    (tmp_path / "state" / "servers" / "a" / "socket").unlink()
    (tmp_path / "state" / "servers" / "a" / "socket").mkdir()
    with pytest.raises(CapacityError, match=r"supervisor does not start.*supervisor\.log"):
        LocalBackend(tmp_path / "state", clock=time.monotonic)


def test_a_path_longer_than_a_sockets_may_be_is_no_trouble(tmp_path):
    folder = tmp_path / ("x" * 100) / ("y" * 100)
    backend = LocalBackend(folder, [LocalServer("a", "V100", 1)], clock=time.monotonic)
    assert [server.alive for server in backend.servers()] == [True]
    backend.shutdown(0.0)


def test_workers_outlive_a_controller_that_closes_and_end_with_a_shutdown(local):
    world = local()
    process = world.run("w", TAKES_TERM)
    supervisor = Process.of(world.supervisor("a"))
    world.reopen()
    assert [worker.process for worker in world.backend.workers()] == [process]
    world.backend.shutdown(5.0)
    until = time.monotonic() + 30
    while (process.alive() or supervisor.alive()) and time.monotonic() < until:
        os.sched_yield()
    assert (process.alive(), supervisor.alive()) == (False, False)
    assert "asked to go" in world.log("w")


@pytest.mark.parametrize(("gpus", "expected"), [(0, ["unset", "unset"]), (5, ["1,3", "4"])])
def test_workers_see_the_gpus_behind_their_slots_where_there_are_any(local, tmp_path, monkeypatch, gpus, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    servers = parse_servers(["a=V100:4", "b=T4:2"], gpus)
    world = local(LocalBackend(tmp_path / "state", servers, clock=time.monotonic, settings=QUICK))
    script = "echo ${CUDA_VISIBLE_DEVICES-unset}"
    world.start("w", script, slots=(1, 3))
    world.start("x", script, slots=(0, 1), server="b")
    for name in "wx":
        world.exited(name)
    assert [world.log(name).strip() for name in "wx"] == expected


def test_servers_are_read_as_they_are_written():
    assert parse_servers(["a=V100:4", "b=T4:2"]) == [LocalServer("a", "V100", 4), LocalServer("b", "T4", 2)]
    assert [server.devices for server in parse_servers(["a=V:2", "b=V:2", "c=V:1"], 3)] == [(0, 1), (2,), ()]
    for text in ("a", "a=V100", "a=V100:x", "=V:1", "a=:1", "a=V:1:2", "a b=V:1", "a/b=V:1"):
        with pytest.raises(BadInputError):
            parse_servers([text])
    with pytest.raises(BadInputError, match="at least one GPU"):
        parse_servers(["a=V:0"])
    with pytest.raises(BadInputError, match="is there twice"):
        parse_servers(["a=V:1", "a=V:1"])


def test_on_a_full_disk_orders_are_refused_and_ends_are_told_and_written_down_later(local):
    """The supervisor's files may not grow, as if the disk was full."""
    world = local()
    supervisor, before = world.supervisor("a"), resource.getrlimit(resource.RLIMIT_FSIZE)
    world.run("w", f"echo ready; while [ ! -e {world.out}/end ]; do sleep 0.05; done; exit 6")
    resource.prlimit(supervisor, resource.RLIMIT_FSIZE, (0, before[1]))
    with pytest.raises(CapacityError, match="the disk is full"):
        world.start("x", slots=(1,))
    assert world.busy() == {"w": (0,)}
    (world.out / "end").touch()
    assert world.exited("w").code == 6
    assert [event.what for event in world.seen if isinstance(event, WorkerTrouble)] == [
        f"what became of it cannot be written down yet: {record_of(world, 'w')}: the disk is full"
        " (free some space; nothing was changed)"
    ]
    resource.prlimit(supervisor, resource.RLIMIT_FSIZE, before)
    world.start("x", slots=(1,))
    assert world.exited("x").code == 0
    world.reopen()
    world.start("w")
    assert world.busy() == {}
