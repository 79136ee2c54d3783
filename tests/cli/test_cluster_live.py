"""The commands that talk with a running cluster, over HTTP, to one whose machines are lists."""

import json
import socket
import threading
from contextlib import contextmanager

import pytest
import uvicorn
from stand_in_cluster import ListedWorld

from quiltwork.cli import main
from quiltwork.gateway.app import create_app
from quiltwork.gateway.cluster_routes import cluster_router


@pytest.fixture
def world(tmp_path):
    return ListedWorld(tmp_path, infer=1)


@contextmanager
def serving(world):
    bound = socket.create_server(("127.0.0.1", 0))
    app = create_app({}, routers=[cluster_router(world.desk)])
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    found = f"http://127.0.0.1:{bound.getsockname()[1]}"
    yield found
    server.should_exit = True
    thread.join()
    bound.close()


@pytest.fixture
def url(world, monkeypatch):
    with serving(world) as found:
        monkeypatch.setenv("QUILTWORK_CLUSTER", found)
        yield found


@pytest.fixture
def run(url, capsys):
    """A command's exit code, what it printed, and what it complained of."""

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main(["cluster", *map(str, words)])
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return run


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("name: a\ncommand: [run, it]\nworkers: 2\n")
    return path


def test_a_job_is_submitted_listed_explained_and_cancelled(world, run, spec):
    assert run("submit", spec) == (0, "a-1\n", "")
    world.step()
    code, out, _ = run("ls")
    assert (code, out.split("\n")[1].split()) == (0, ["a-1", "default", "running", "2", "of", "2"])
    assert "started: GPUs 2 of train-0" in run("explain", "a-1")[1]
    assert run("cancel", "a-1") == (0, "a-1 stopping\n", "")
    assert json.loads(run("ls", "--json", "--state", "stopping")[1])["jobs"][0]["id"] == "a-1"


def test_what_workers_wrote_is_printed(world, run, spec):
    run("submit", spec)
    world.step()
    for member in world.desk.job("a-1")["members"]:
        with open(member["log"], "w") as log:
            log.write(f"from {member['id']}\n")
    assert run("logs", "a-1", "--worker", "a-1.1") == (0, "from a-1.1\n", "")
    assert run("logs", "a-1")[1] == "==> a-1.0 <==\nfrom a-1.0\n\n==> a-1.1 <==\nfrom a-1.1\n"


def test_servers_are_lent_asked_back_and_drained(world, run):
    assert run("loan", 1)[:2] == (0, "servers: 1 onloan, 2 train\n")
    assert run("reclaim", 1)[:2] == (0, "servers: 1 draining, 2 train\n")
    world.step()
    assert run("drain", "train-1")[:2] == (0, "servers: 1 infer, 2 train; train-1 drained\n")
    assert "drained" in run("ls", "--servers")[1]
    assert run("undrain", "train-1")[:2] == (0, "servers: 1 infer, 2 train\n")


def test_teams_are_listed_with_what_they_hold_of_their_quotas(tmp_path, monkeypatch, capsys):
    world = ListedWorld(tmp_path, quotas={"blue": 3})
    for team, workers in (("red", 4), ("blue", 2), ("blue", 2)):
        world.command(workers=workers, more=f"team: {team}\n")
    world.step(seconds=0.0)
    world.step(seconds=1800.0)
    with serving(world) as url:
        monkeypatch.setenv("QUILTWORK_CLUSTER", url)
        with pytest.raises(SystemExit):
            main(["cluster", "ls", "--teams"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["team", "quota", "GPUs", "borrowed", "flexible", "queued", "GPU-hours"]
    assert lines[1:] == [["blue", "3", "4", "2", "0", "0", "2.00"], ["red", "4", "4", "0", "0", "2.00"]]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("submit", "nowhere.yaml"), 2, "nowhere.yaml: there is no such file"),
        (("explain", "nobody"), 2, "job nobody: there is no such job"),
        (("logs", "nobody"), 2, "job nobody: there is no such job"),
        (("cancel", "nobody"), 2, "job nobody: there is no such job"),
        (("loan", 0), 2, "servers: 0 servers"),
        (("drain", "nowhere"), 2, "server nowhere: there is no such server"),
        (("ls", "--url", "nonsense"), 2, "--url: 'nonsense' is not a URL"),
        (("ls", "--url", "http://127.0.0.1:9"), 1, "no answer"),
        (("up", "--train", 0), 2, "--train: 0 is not a number"),
        (("up", "--policy", "best"), 2, "'best' is not one of"),
        (("up", "--policy", "lyra:lease=3"), 2, "'lease' is not a rule"),
        (("up", "--policy", "lyra:gpu_types=A"), 2, "'gpu_types' is not a rule"),
        (("up", "--policy", "lyra:share_every_s=0"), 2, "share_every_s: 0.0 is not a number of seconds above 0"),
        (("up", "--types", ","), 2, "names no GPU types"),
        (("up", "--set", "headrom=1"), 2, "--set: 'headrom' is not a rule (did you mean headroom? known: order, "),
        (("up", "--set", "poll_s=0"), 2, "--set poll_s: 0.0 is not a number of seconds above 0"),
        (("up", "--quota", "red=many"), 2, "--quota red: 'many' is not a number of GPUs"),
        (("ls", "--teams", "--servers"), 2, "are two lists"),
    ],
)
def test_what_goes_wrong_is_one_line(run, words, code, said):
    found, out, err = run(*words)
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert said in err


def test_a_spec_that_is_wrong_is_refused_before_it_is_sent(world, run, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("name: a\ncommand: x\nworkers: {min: 3, max: 1}\n")
    code, _, err = run("submit", path)
    assert code == 2
    assert f"{path}: line 3" in err
    assert world.desk.jobs() == []
