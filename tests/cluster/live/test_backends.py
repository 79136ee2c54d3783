"""The contract of a backend, whatever its servers are: processes of this machine, or nodes of a Ray cluster."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
from dataclasses import asdict, replace

import live_world
import pytest
from live_world import IGNORES_TERM, SLOT_WORKER, TAKES_TERM, runs

from quiltwork.cluster.live.backend import (
    Gang,
    ServerBack,
    ServerLost,
    WorkerExited,
    WorkerStarted,
    WorkerState,
    WorkerTrouble,
)
from quiltwork.core.errors import BadInputError, ConflictError, NotFoundError


def test_servers_are_told_with_their_gpus(world):
    found = {server.id: (server.gpu_type, server.gpus) for server in world.backend.servers() if server.alive}
    assert found["a"] == ("V100", 4)
    assert found["b"] == ("T4", 2)
    assert all(0 <= server.silent_s < 60 for server in world.backend.servers() if server.alive)


def test_a_worker_runs_and_its_exit_code_is_told(world):
    world.start("w", "echo hello; echo there >&2; exit 7")
    began = world.started("w")
    ended = world.exited("w")
    assert (ended.code, ended.signal) == (7, None)
    assert began.time <= ended.time
    assert world.log("w") == "hello\nthere\n"
    assert world.busy() == {}


def test_the_signal_that_ended_a_worker_is_told(world):
    world.start("w", "kill -SEGV $$")
    ended = world.exited("w")
    assert (ended.code, ended.signal) == (None, signal.SIGSEGV)
    assert "quiltwork: ended by SIGSEGV" in world.log("w")


def test_a_worker_knows_who_it_is(world):
    names = "RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT QUILTWORK_JOB QUILTWORK_SLOTS MINE"
    script = "pwd; for v in " + names + "; do eval echo $v=\\$$v; done; echo $QUILTWORK_WORKER"
    more = {"rank": 2, "world_size": 4, "local_rank": 1, "master_addr": "10.0.0.1", "master_port": 1234}
    env = {"MINE": "a b", "RANK": "wrong"}
    world.start("w", script, slots=(3, 1), env=env, workdir=str(world.out), **more)
    assert world.exited("w").code == 0
    assert world.log("w").splitlines() == [
        str(world.out), "RANK=2", "WORLD_SIZE=4", "LOCAL_RANK=1", "MASTER_ADDR=10.0.0.1", "MASTER_PORT=1234",
        "QUILTWORK_JOB=job", "QUILTWORK_SLOTS=3,1", "MINE=a b", world.id("w"),
    ]  # fmt: skip


def test_who_runs_is_listed_with_its_process_until_it_is_gone(world):
    process = world.run("w", TAKES_TERM, slots=(0, 2))
    assert process.alive()
    (worker,) = world.backend.workers()
    assert (worker.worker_id, worker.job_id, worker.server_id) == (world.id("w"), "job", "a")
    assert (worker.slots, worker.state, worker.process) == ((0, 2), WorkerState.RUNNING, process)
    world.stop("w")
    world.exited("w")
    assert (world.backend.workers(), process.alive()) == ([], False)


def test_to_stop_is_sigterm_to_the_whole_process_group(world):
    child = "trap 'echo child too; exit' TERM; echo child is there; while :; do sleep 0.05; done"
    world.run("w", f"({child}) & {TAKES_TERM}")
    world.printed("w", "child is there")  # before, SIGTERM would be the end of it without a word
    world.stop("w")
    ended = world.exited("w")
    assert (ended.code, ended.signal) == (5, None)
    world.printed("w", "child too")
    assert {"asked to go", "child too"} <= set(world.log("w").splitlines())


def test_who_does_not_go_within_its_grace_is_killed(world):
    process = world.run("w", IGNORES_TERM)
    world.stop("w", 0.2)
    ended = world.exited("w")
    assert (ended.code, ended.signal) == (None, signal.SIGKILL)
    assert not process.alive()


def test_the_orders_grace_counts_where_none_is_said(world):
    world.run("w", IGNORES_TERM, grace_s=0.1)
    world.stop("w")
    assert world.exited("w").signal == signal.SIGKILL


def test_of_two_graces_the_sooner_end_counts(world):
    world.run("w", IGNORES_TERM)
    world.stop("w", 1e6)
    world.stop("w", 0.0)
    world.stop("w", 1e6)
    assert world.exited("w").signal == signal.SIGKILL


def test_to_stop_who_is_gone_or_was_never_there_is_nothing(world):
    world.start("w")
    world.exited("w")
    world.stop("w")
    world.stop("nobody")
    assert world.busy() == {}
    with pytest.raises(BadInputError, match="grace_s"):
        world.stop("w", math.nan)


def test_an_order_that_is_sent_twice_starts_one_worker(world):
    script = f"echo once >> {world.out}/count; echo ready; while [ ! -e {world.out}/end ]; do sleep 0.05; done"
    process = world.run("w", script)
    world.start("w", script)
    world.start("w", script, slots=(1,))
    assert [worker.process for worker in world.backend.workers()] == [process]
    (world.out / "end").touch()
    world.exited("w")
    world.start("w", script)
    world.start("other", server="b")
    world.exited("other")
    assert (world.out / "count").read_text() == "once\n"
    world.start("w", script, server="b")
    assert world.busy() == {}


def test_a_slot_is_free_when_nothing_of_its_worker_is_left_and_not_before(world):
    world.run("w", IGNORES_TERM, slots=(1, 2))
    for slots in ((1,), (3, 2), (0, 1, 2, 3)):
        with pytest.raises(ConflictError, match=r"server a: slot [12] is taken by worker w\."):
            world.start("x", slots=slots)
    world.stop("w", 1e6)
    with pytest.raises(ConflictError, match="slot 1 is taken"):
        world.start("x", slots=(1,))
    assert world.busy() == {"w": (1, 2)}
    world.start("beside", slots=(0, 3))
    world.start("elsewhere", slots=(1,), server="b")
    world.exited("beside")
    world.exited("elsewhere")
    world.stop("w", 0.0)
    world.exited("w")
    world.start("x", slots=(1,))
    assert world.exited("x").code == 0


def test_who_says_that_it_left_and_has_a_process_there_is_there(world):
    """The process has forked away, has a session of its own and prints nothing."""
    hidden = f"trap : TERM; echo $$ > {world.out}/pid; exec > /dev/null 2>&1; while :; do sleep 0.05; done"
    wait = f"while [ ! -s {world.out}/pid ]; do sleep 0.05; done"
    world.start("w", f"setsid sh -c '{hidden}' & {wait}; exit 3", grace_s=1e6)
    world.started("w")
    assert "processes behind, which are now stopped" in world.trouble("w").what
    pid = int((world.out / "pid").read_text())
    assert runs(pid)
    assert world.busy() == {"w": (0,)}
    with pytest.raises(ConflictError, match="slot 0 is taken"):
        world.start("x")
    world.stop("w", 0.0)
    ended = world.exited("w")
    assert (ended.code, ended.signal) == (3, None)
    assert not runs(pid)
    world.start("x")
    assert world.exited("x").code == 0


def test_what_cannot_be_started_says_so_in_its_log_and_in_its_exit_code(world):
    plain = world.out / "plain"
    plain.write_text("no program")
    cases = {
        "missing": (127, {"argv": ("no-such", "x")}, "cannot start 'no-such': there is no such program"),
        "plain": (126, {"argv": (str(plain),)}, f"cannot start '{plain}': Permission denied"),
        "lost": (127, {"workdir": str(world.out / "gone")}, f"there is no working folder {world.out}/gone"),
        "long": (126, {"argv": ("sh", "-c", "x" * (1 << 18))}, "cannot start 'sh': Argument list too long"),
    }  # fmt: skip
    for name, (code, more, why) in cases.items():
        world.start(name, **more)
        ended = world.exited(name)
        assert (ended.code, ended.signal, ended.why) == (code, None, why)
        assert world.log(name) == f"quiltwork: {why}\n"
    assert not any(isinstance(event, WorkerStarted) for event in world.seen)
    assert world.busy() == {}


def test_nothing_starts_on_a_fenced_server_and_what_runs_there_is_listed_until_it_is_gone(world):
    world.run("w", TAKES_TERM)
    world.backend.fence("a")
    world.backend.fence("a")
    assert {server.id for server in world.backend.servers() if server.fenced} == {"a"}
    with pytest.raises(ConflictError, match="server a: the server is fenced"):
        world.start("x", slots=(1,))
    world.start("w")  # it was ordered before
    assert world.busy() == {"w": (0,)}
    world.start("y", server="b")
    assert world.exited("y").code == 0
    world.stop("w")
    world.exited("w")
    assert world.busy() == {}
    world.backend.unfence("a")
    world.backend.unfence("a")
    world.start("x", slots=(1,))
    assert world.exited("x").code == 0


def test_a_server_that_there_is_not_is_told(world):
    for call in (
        lambda: world.start("w", server="z"),
        lambda: world.backend.fence("z"),
        lambda: world.backend.unfence("z"),
    ):
        with pytest.raises(NotFoundError, match="server z: there is no such server"):
            call()


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"slots": ()}, "slots"),
        ({"slots": (0, 0)}, "slots"),
        ({"slots": (4,)}, "slots"),
        ({"slots": (-1,)}, "slots"),
        ({"slots": (0.5,)}, "slots"),
        ({"argv": ()}, "argv"),
        ({"argv": ("",)}, "argv"),
        ({"argv": ("a\0b",)}, "argv"),
        ({"env": {"a=b": "c"}}, "env"),
        ({"env": {"a": "\0"}}, "env"),
        ({"log": "here.log"}, "log"),
        ({"log": ""}, "log"),
        ({"log_bytes": 0}, "log_bytes"),
        ({"workdir": "here"}, "workdir"),
        ({"grace_s": math.nan}, "grace_s"),
        ({"grace_s": -1.0}, "grace_s"),
        ({"rank": 4, "world_size": 4}, "rank"),
        ({"world_size": 0}, "rank"),
        ({"master_port": 0}, "master_port"),
        ({"gang": Gang("g", ("b",), 0)}, "gang"),
        ({"gang": Gang("g", ("a",), 1)}, "gang"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused_by_its_field(world, more, field):
    with pytest.raises(BadInputError, match=field):
        world.start("w", **more)
    assert world.busy() == {}


@pytest.mark.parametrize("id", ["", "/w", "../w", "a b", "w" * 201])
def test_an_id_that_is_no_name_is_refused(world, id):
    with pytest.raises(BadInputError, match="worker_id"):
        world.backend.start_worker(replace(world.order("w"), worker_id=id))


def test_a_log_takes_no_more_than_it_may(world):
    world.start("w", "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done", log_bytes=8192)
    assert world.exited("w").code == 0
    now, before = world.log("w"), (world.out / "w.log.1").read_text()
    assert len(now) + len(before) <= 8192 + 200
    assert now.startswith("quiltwork: earlier output is in w.log.1; what came before that was dropped\n")
    assert now.endswith("line 2999\n")
    lines = [line for line in (before + now).splitlines() if not line.startswith("quiltwork")]
    assert lines == [f"line {i}" for i in range(3000 - len(lines), 3000)]


def test_a_log_that_cannot_be_written_stops_no_worker_and_is_told(world):
    world.start("w", "echo one; echo two; exit 4", log="/dev/full")
    assert world.exited("w").code == 4
    (trouble,) = [event for event in world.seen if isinstance(event, WorkerTrouble)]
    assert trouble.what == "/dev/full: output cannot be written and is lost: No space left on device"


def test_workers_of_a_lost_server_are_gone_and_told_and_the_server_comes_back(world, spare):
    grandchild = f"trap '' TERM; setsid sh -c 'echo $$ > {world.out}/pid; while :; do sleep 0.05; done' & {TAKES_TERM}"
    process = world.run("w", grandchild, server=spare)
    world.printed("w", "ready")
    other = world.run("other", TAKES_TERM, server="b")
    world.lose(spare)
    world.until(lambda event: isinstance(event, ServerLost) and event.server_id == spare)
    ended = world.exited("w")
    assert (ended.code, ended.signal, ended.why) == (None, None, "its server was lost")
    with pytest.raises(ConflictError, match="the server is lost"):
        world.start("x", server=spare)
    world.backend.fence(spare)
    assert {server.id: (server.alive, server.fenced) for server in world.backend.servers()}[spare] == (False, True)
    assert "w" not in world.busy()
    assert other.alive()
    world.bring_back(spare)
    world.until(lambda event: isinstance(event, ServerBack) and event.server_id == spare)
    with pytest.raises(ConflictError, match="fenced"):
        world.start("x", server=spare)
    world.backend.unfence(spare)
    world.start("x", server=spare)
    assert world.exited("x").code == 0
    # Ray tells that a node is gone before its processes are; that x began says that they are.
    assert not process.alive()
    assert not runs(int((world.out / "pid").read_text()))


def test_what_was_dealt_with_is_not_told_again_and_what_was_not_is(world):
    world.start("w", "exit 1")
    world.exited("w")
    world.reopen()
    again = world.exited("w")
    assert again.code == 1
    world.backend.events()
    world.reopen()
    world.start("x")
    world.exited("x")
    assert not any(isinstance(event, WorkerExited) for event in world.seen)


def test_a_controller_that_is_killed_leaves_everything_to_the_next(world, request):
    world.backend.fence("b")
    world.backend.close()
    orders = [
        world.order("stays", TAKES_TERM, slots=(0,), gang=None),
        world.order("ends", f"while [ ! -e {world.out}/end ]; do sleep 0.05; done; exit 9", slots=(1, 2)),
    ]
    address = request.getfixturevalue("ray_cluster").address if world.kind == "ray" else ""
    controller = subprocess.Popen(
        [sys.executable, live_world.__file__, world.kind, str(world.folder), address,
         json.dumps([asdict(order) for order in orders])],
        stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    try:
        told = {controller.stdout.readline().split(maxsplit=1)[0] for _ in orders}
        assert told == {"WorkerStarted"}
    finally:
        controller.kill()
        controller.wait()
        controller.stdout.close()
    (world.out / "end").touch()
    world.backend = live_world.open_backend(world.kind, world.folder)
    assert world.exited("ends").code == 9
    (found,) = world.backend.workers()
    assert (found.worker_id, found.slots, found.state) == (world.id("stays"), (0,), WorkerState.RUNNING)
    assert found.process.alive()
    for order in orders:
        world.backend.start_worker(order)
    assert [worker.process for worker in world.backend.workers()] == [found.process]
    with pytest.raises(ConflictError, match="slot 0 is taken"):
        world.start("x", slots=(0,))
    with pytest.raises(ConflictError, match="fenced"):
        world.start("x", server="b")
    world.backend.unfence("b")
    world.stop("stays")
    assert world.exited("stays").code == 5
    assert world.busy() == {}


def test_no_order_of_starts_and_stops_puts_two_workers_on_a_slot(world):
    """Starts at random, whatever runs; every worker looks by itself whether it is alone on its slots."""
    draw = random.Random(5)
    log = world.out / "slots"
    gpus = {"a": 4, "b": 2}
    started, refused, ended = [], 0, 0
    for i in range(40 if world.kind == "local" else 14):
        server = draw.choice("ab")
        slots = tuple(sorted(draw.sample(range(gpus[server]), draw.choice((1, 1, 2)))))
        manner = draw.choice(("stubborn", "willing"))
        argv = (sys.executable, "-S", str(SLOT_WORKER), str(log), server, ",".join(map(str, slots)), manner)
        try:
            world.start(f"w{i}", argv=argv, server=server, slots=slots)
            started.append(f"w{i}")
        except ConflictError:
            refused += 1
        for _ in range(draw.choice((0, 1))):
            if started:
                world.stop(draw.choice(started), draw.choice((0.0, 0.05, 0.3)))
        if refused > ended:
            gone = world.until(lambda event: isinstance(event, WorkerExited)) if _any_stopping(world) else None
            ended = refused if gone is not None else ended
    for name in started:
        world.stop(name, 0.0)
    while world.busy():
        world.seen += world.backend.events(0.1)
    lines = log.read_text().splitlines()
    assert not [line for line in lines if line.startswith("overlap")]
    assert len(started) > 6
    assert refused > 0
    assert any(line.startswith("start") for line in lines)


def _any_stopping(world):
    return any(worker.state is WorkerState.STOPPING for worker in world.backend.workers())


def test_gangs_get_their_slots_together_and_leave_one_by_one(world):
    gang = ("a", "a", "b")
    for i, (server, slot) in enumerate(zip(gang, (0, 1, 0), strict=True)):
        world.start(f"g{i}", TAKES_TERM, server=server, slots=(slot,), gang=Gang(world.id("gang"), gang, i))
    for i in range(3):
        world.started(f"g{i}")
        world.printed(f"g{i}", "ready")
    world.stop("g1")
    assert world.exited("g1").code == 5
    # What it had is another's now, though its gang runs on.
    world.start("x", "exit 0", slots=(1,))
    assert world.exited("x").code == 0
    assert set(world.busy()) == {"g0", "g2"}


def test_all_is_gone_after_a_shutdown(world):
    processes = [world.run(f"w{i}", IGNORES_TERM, slots=(i,)) for i in range(2)]
    world.backend.shutdown(0.1)
    assert not any(process.alive() for process in processes)
    world.backend = live_world.open_backend(world.kind, world.folder)
    assert world.exited("w0").signal == signal.SIGKILL
