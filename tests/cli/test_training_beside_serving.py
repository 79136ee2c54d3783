"""A gateway that serves and a cluster that trains, as people run them: two commands on one machine.

The gateway is quiet, so training grows onto the server that it lends; traffic comes, and the server is its own again. A
language model is fine-tuned by several workers meanwhile, and the gateway serves what came of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from quiltwork.cli.cluster_client import ENDED, Cluster
from quiltwork.zoo import Zoo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"
QUILTWORK = (sys.executable, "-c", "from quiltwork.cli import main; main()")
PATIENCE_S = 240.0
TEXT = "def read(path):\n    with open(path) as file:\n        return file.read()\n\n\n"


def until(asked, wanted):
    """Ask again and again until the answer is as wanted; that answer."""
    end, pause = time.monotonic() + PATIENCE_S, threading.Event()
    while time.monotonic() < end:
        found = asked()
        if wanted(found):
            return found
        pause.wait(0.2)
    raise AssertionError(f"it did not come to that; last: {found}")


@contextmanager
def command(begins, *words):
    """A command's process, and the first line that it prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QUILTWORK_")}
    process = subprocess.Popen(
        [*QUILTWORK, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=kept | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        said = process.stdout.readline()
        assert said.startswith(begins), said + process.stderr.read()
        yield said
        process.terminate()
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, errors) == (0, "")
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def gateway(tmp_path):
    with Zoo(tmp_path / "zoo") as opened:
        opened.add(MODELS / "base")
    with command("quiltwork: serving ", "up", "--zoo", tmp_path / "zoo", "--port", 0) as said:
        yield said.split()[-1]


@pytest.fixture
def cluster(gateway, tmp_path):
    """One training server, and two of the gateway's; one of these it lends as soon as it is quiet, and one it keeps
    always, as its headroom. A slot on each."""
    words = ("--train", 1, "--infer", 2, "--gpus-per-server", 1, "--types", "V100", "--requests-per-server", 1)
    more = ("--policy", "lyra:min_lease_s=0,share_every_s=1,loans_every_s=1", "--gateway", gateway, "--stop-workers")
    with command("cluster at ", "cluster", "up", "--state", tmp_path / "state", "--port", 0, *words, *more) as said:
        yield Cluster(said.split()[2], None)


@pytest.fixture
def tuning(tmp_path):
    """Writes the spec of a fine-tuning that may have two workers, and gives it and the folder of its result."""

    def spec(steps):
        (tmp_path / "text.txt").write_text(TEXT * 200)
        out = tmp_path / "tales"
        config = {
            "model": str(MODELS / "base"), "text": str(tmp_path / "text.txt"), "out": str(out), "steps": steps,
            "method": "lora", "rank": 4, "window": 64,
        }  # fmt: skip
        said = {
            "name": "tales", "trainable": "quiltwork.serving:language_trainable", "config": config,
            "workers": {"min": 1, "max": 2}, "est_duration": "10m", "fungible": True,
        }  # fmt: skip
        return json.dumps(said), out

    return spec


def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S)


@contextmanager
def traffic(url):
    """Requests all the time: two callers with two long answers each, one after the other."""
    enough, failed = threading.Event(), []

    def ask():
        try:
            while not enough.is_set():
                client(url).completions.create(
                    model="base", prompt="def f(", max_tokens=300, n=2, extra_body={"ignore_eos": True}
                )
        except openai.OpenAIError as error:
            failed.append(error)

    callers = [threading.Thread(target=ask) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        yield
    finally:
        enough.set()
        for caller in callers:
            caller.join()
    assert failed == []


def pool(cluster):
    return {server["id"]: server["pool"] for server in cluster.status()["servers"]}["infer-0"]


def computing(job):
    return sorted(worker["server"] for worker in job["members"] if not worker["leaving"])


def test_a_quiet_gateway_lends_its_server_to_training_and_has_it_back_when_traffic_comes(gateway, cluster, tuning):
    text, _ = tuning(1_000_000)
    job = cluster.submit(text)["id"]
    both = ["infer-0", "train-0"]
    grown = until(lambda: cluster.job(job), lambda found: computing(found) == both and found["steps"])
    survivor = next(worker["id"] for worker in grown["members"] if worker["server"] == "train-0")
    with traffic(gateway):
        until(lambda: pool(cluster), lambda found: found == "infer")
        left = cluster.job(job)
        assert [worker["id"] for worker in left["members"]] == [survivor]
        assert (left["state"], left["runs"]) == ("running", 1)
        # It goes on with the one that it has.
        until(lambda: cluster.job(job)["steps"][0], lambda steps: steps > left["steps"][0])
    cluster.cancel(job)
    assert cluster.wait(job)["state"] == "cancelled"
    told = "\n".join(cluster.explain(job)["history"])
    assert "grew, 1 -> 2 workers: GPUs 1 of infer-0" in told
    assert "shrank, 2 -> 1 workers: GPUs 1 of infer-0 (reclaim)" in told


def test_a_language_model_is_tuned_by_several_workers_and_the_gateway_serves_the_result(gateway, cluster, tuning):
    text, out = tuning(60)
    job = cluster.submit(text)["id"]
    most = 0
    while (found := cluster.job(job))["state"] not in ENDED:
        most = max(most, len(computing(found)))
        answer = client(gateway).completions.create(model="base", prompt="def read(", max_tokens=4)
        assert answer.usage.completion_tokens > 0  # the gateway serves all the while
    assert (found["state"], found["steps"], found["error"]) == ("done", [60, 60], "")
    assert most == 2
    loss = json.loads((out / "training.json").read_text())["held_out"]
    assert loss["after"] < loss["before"]
    body = json.dumps({"lora_name": "tales", "lora_path": str(out), "base_model_name": "base"}).encode()
    request = urllib.request.Request(
        f"{gateway}/v1/load_lora_adapter", body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
        assert reply.status == 200
    tuned = client(gateway).completions.create(model="tales", prompt="def read(", max_tokens=12, temperature=0)
    plain = client(gateway).completions.create(model="base", prompt="def read(", max_tokens=12, temperature=0)
    assert tuned.choices[0].text != plain.choices[0].text
    assert {model.id for model in client(gateway).models.list()} == {"base", "tales"}
