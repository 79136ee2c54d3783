"""A whole cluster on this machine: real processes, a store, a link; killed and started again."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from live_world import runs

from quiltwork.cluster.live.host import Host, open_host
from quiltwork.cluster.live.settings import Settings
from quiltwork.cluster.policy.rules import rules_named
from quiltwork.cluster.server import Pool, Server

LIB = Path(__file__).resolve().parents[2] / "lib"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
PATIENCE_S = 120.0


def servers(train=2, infer=1, gpus=2):
    made = [Server(f"train-{i}", "V100", gpus, Pool.TRAIN) for i in range(train)]
    return made + [Server(f"infer-{i}", "T4", gpus, Pool.INFER) for i in range(infer)]


def host(folder, **options):
    return Host(folder, servers(), Settings(rules=rules_named("lyra"), share_every_s=0.5, poll_s=0.05), **options)


def until(found, controller):
    """Step until something is so. Fails after a long while."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        controller.step(0.05)
        if found():
            return
    raise AssertionError("it did not come to that")


def ended(desk, job):
    return lambda: desk.job(job)["state"] in ("done", "failed", "cancelled")


def command(name, script, workers=1, more=""):
    return f"name: {name}\ncommand: [{sys.executable}, -c, {script!r}]\nworkers: {workers}\n{more}"


def test_commands_succeed_fail_and_say_why(tmp_path):
    with open_host(host(tmp_path)) as (controller, desk):
        good = desk.submit(command("good", "import os; print(os.environ['RANK'], os.environ['WORLD_SIZE'])", 2))
        bad = desk.submit(command("bad", "raise SystemExit(3)"))
        none = desk.submit("name: none\ncommand: [/nowhere/at/all]\n")
        for job in (good, bad, none):
            until(ended(desk, job), controller)
        assert desk.job(good)["state"] == "done"
        said = sorted(path.read_text().strip() for path in desk.logs(good).values())
        assert said == ["0 2", "1 2"]
        assert (desk.job(bad)["state"], desk.job(bad)["exit_code"]) == ("failed", 3)
        assert "no such program" in desk.job(none)["error"]
        controller.stop_workers(1.0)


CONTROLLER = """
import os
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2].split(os.pathsep)
from test_host import host
from quiltwork.cluster.live.host import open_host
with open_host(host(Path(sys.argv[1]))) as (controller, desk):
    if len(sys.argv) > 3:
        desk.submit(sys.argv[3])
    print("ready", flush=True)
    while True:
        controller.step(0.05)
"""


def test_workers_outlive_a_controller_that_is_killed_and_are_found_again(tmp_path):
    flag = tmp_path / "go"
    script = f"import os, time\nwhile not os.path.exists({str(flag)!r}): time.sleep(0.05)\nprint('went')"
    here = os.pathsep.join((os.path.dirname(__file__), str(LIB)))
    first = subprocess.Popen(
        [sys.executable, "-c", CONTROLLER, str(tmp_path / "state"), here, command("waits", script)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout.readline() == "ready\n"
    # The log of a worker is there as soon as that runs.
    logs = tmp_path / "state" / "logs" / "waits-1"
    patience = threading.Event()
    for _ in range(int(PATIENCE_S / 0.1)):
        if list(logs.glob("*.log")):
            break
        patience.wait(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    first.stdout.close()
    with open_host(host(tmp_path / "state")) as (controller, desk):
        (member,) = desk.job("waits-1")["members"]
        controller.step()
        assert [worker["id"] for worker in desk.job("waits-1")["members"]] == [member["id"]]
        flag.touch()
        until(ended(desk, "waits-1"), controller)
        assert (desk.job("waits-1")["state"], desk.job("waits-1")["runs"]) == ("done", 1)
        assert (logs / f"{member['id']}.log").read_text() == "went\n"
        controller.stop_workers(1.0)


def test_a_server_whose_processes_are_killed_loses_its_job_to_another(tmp_path):
    flag = tmp_path / "go"
    script = f"import os, time\nwhile not os.path.exists({str(flag)!r}): time.sleep(0.05)"
    with open_host(host(tmp_path / "state")) as (controller, desk):
        job = desk.submit(command("moves", script, 2))
        until(lambda: len(desk.job(job)["members"]) == 2, controller)
        (server,) = {worker["server"] for worker in desk.job(job)["members"]}
        found = subprocess.run(["pgrep", "-f", f"{tmp_path}.*{server}"], capture_output=True, text=True, check=False)
        for pid in map(int, found.stdout.split()):
            os.kill(pid, signal.SIGKILL)
        until(lambda: {w["server"] for w in desk.job(job)["members"]} not in ({server}, set()), controller)
        flag.touch()
        until(ended(desk, job), controller)
        assert desk.job(job)["state"] == "done"
        controller.stop_workers(1.0)


def groups_of(kind, job):
    """Ray's placement groups of a job that are there, by name."""
    if kind == "local":
        return {}
    from ray.util import placement_group_table

    tables = placement_group_table().values()
    return {t["name"]: t["placement_group_id"] for t in tables if t["state"] == "CREATED" and job in t["name"]}


@pytest.mark.parametrize("kind", ["local", "ray"])
def test_workers_that_stay_while_a_job_grows_and_shrinks_are_the_same_processes(kind, tmp_path, request):
    ray = request.getfixturevalue("ray_cluster").address if kind == "ray" else None
    settings = Settings(rules=rules_named("lyra"), share_every_s=0.5, poll_s=0.05)
    paths = os.pathsep.join(filter(None, [str(LIB), os.environ.get("PYTHONPATH")]))
    grows = (
        "name: grows\ntrainable: tiny_elastic:TinyElastic\nworkers: {min: 3, max: 4}\nest_duration: 1h\n"
        f"config: {{steps: 100000000}}\nenv: {{PYTHONPATH: {paths!r}, OMP_NUM_THREADS: '1'}}\n"
    )
    short = command("short", "import time; time.sleep(3600)", more="est_duration: 1m\n")
    with open_host(Host(tmp_path / "state", servers(1, 0, 4), settings, ray=ray)) as (controller, desk):
        first = desk.submit(short)
        until(lambda: desk.job(first)["state"] == "running", controller)
        job = desk.submit(grows)

        def computing():
            """Processes that have taken steps, and how many bytes they have said of them."""
            found = (tmp_path / "state" / "jobs" / job).glob("noted-*")
            return {int(path.name.removeprefix("noted-")): path.stat().st_size for path in found}

        until(lambda: len(computing()) == 3, controller)
        stay, base = set(computing()), groups_of(kind, job)
        desk.cancel(first)
        until(lambda: len(computing()) == 4, controller)
        (newcomer,) = set(computing()) - stay
        assert all(runs(pid) for pid in stay)
        second = desk.submit(short)
        until(lambda: desk.job(second)["state"] == "running" and not runs(newcomer), controller)
        before = computing()
        until(lambda: all(computing()[pid] > before[pid] for pid in stay), controller)
        assert set(computing()) == {*stay, newcomer}
        assert desk.job(job)["runs"] == 1
        until(lambda: groups_of(kind, job) == base, controller)  # nothing of the newcomer's is left
        assert kind == "local" or base
        desk.cancel(job)
        controller.stop_workers(1.0)
