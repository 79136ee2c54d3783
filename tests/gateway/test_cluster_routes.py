"""The cluster over HTTP, by a real client of the application, over machines that are lists."""

import pytest
from fastapi.testclient import TestClient
from stand_in_cluster import ListedWorld

from quiltwork.gateway.app import create_app
from quiltwork.gateway.cluster_routes import cluster_router
from quiltwork.gateway.server import LOCAL_NAMES
from quiltwork.gateway.tenants import KeyFile

SPEC = "name: a\ncommand: [run, it]\nworkers: 2\nteam: red\n"
YAML = {"Content-Type": "application/yaml"}


@pytest.fixture
def world(tmp_path):
    return ListedWorld(tmp_path, infer=1)


def client_of(world, keys=None):
    app = create_app(
        {},
        keys=keys,
        hosts=LOCAL_NAMES | {"testserver"} if keys is None else None,
        routers=[cluster_router(world.desk)],
        more_samples=[world.desk.samples],
    )
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def client(world):
    return client_of(world)


def submit(client, text=SPEC, **headers):
    return client.post("/v1/cluster/jobs", content=text, headers=YAML | headers)


def test_a_job_from_submission_to_its_output(world, client, tmp_path):
    answer = submit(client)
    assert answer.status_code == 201
    job = answer.json()["id"]
    world.step()
    shown = client.get(f"/v1/cluster/jobs/{job}").json()
    assert (shown["state"], len(shown["members"])) == ("running", 2)
    for member in shown["members"]:
        with open(member["log"], "w") as log:
            log.write(f"I am {member['id']}\n")
        world.backend.exit(member["id"])
    world.step(times=2)
    assert client.get("/v1/cluster/jobs", params={"state": "done"}).json()["jobs"][0]["id"] == job
    assert client.get("/v1/cluster/jobs", params={"team": "blue"}).json() == {"jobs": []}
    text = client.get(f"/v1/cluster/jobs/{job}/logs").text
    assert all(f"I am {member['id']}" in text for member in shown["members"])
    one = client.get(f"/v1/cluster/jobs/{job}/logs", params={"worker": shown["members"][0]["id"], "tail": 4}).text
    assert one == f"{shown['members'][0]['id']}\n"[-4:]
    assert client.get("/v1/cluster").json()["teams"]["red"]["gpu_hours"] > 0


def test_json_is_yaml_too_and_the_same_key_is_the_same_job(client):
    json = {"name": "b", "command": "run it"}
    answers = [client.post("/v1/cluster/jobs", json=json, headers={"Idempotency-Key": "k"}).json() for _ in range(2)]
    assert answers[0]["id"] == answers[1]["id"]
    assert len(client.get("/v1/cluster/jobs").json()["jobs"]) == 1


def test_why_a_job_waits(world, client):
    for _ in range(5):
        submit(client, SPEC.replace("workers: 2", "workers: 4"))
    world.step()
    waiting = client.get("/v1/cluster/jobs", params={"state": "queued"}).json()["jobs"]
    said = client.get(f"/v1/cluster/jobs/{waiting[-1]['id']}/explain").json()
    assert said["waits"] == "needs 4 GPUs, and 0 are free where it may run"
    assert any("jobs come before it" in line for line in said["details"])
    assert "submitted" in said["history"][0]


def test_servers_are_lent_drained_and_given_back(world, client):
    world.lender = None
    lent = client.post("/v1/cluster/loan", json={"servers": 1}).json()
    assert [s["pool"] for s in lent["servers"]] == ["train", "train", "onloan"]
    client.post("/v1/cluster/reclaim", json={"servers": 1})
    world.step()
    assert [s["pool"] for s in client.get("/v1/cluster").json()["servers"]] == ["train", "train", "infer"]
    drained = client.post("/v1/cluster/servers/train-0/drain", json={"empty": True}).json()
    assert drained["servers"][0]["closed"] == "drained"
    assert client.post("/v1/cluster/servers/train-0/undrain", json={}).json()["servers"][0]["closed"] is None


def test_cancelling(world, client):
    job = submit(client).json()["id"]
    assert client.post(f"/v1/cluster/jobs/{job}/cancel", json={}).json()["state"] == "stopping"
    world.step()
    assert client.get(f"/v1/cluster/jobs/{job}").json()["state"] == "cancelled"
    assert client.post(f"/v1/cluster/jobs/{job}/cancel", json={}).status_code == 409


@pytest.mark.parametrize(
    ("method", "path", "how", "status", "said"),
    [
        ("POST", "jobs", {"content": "name: x", "headers": YAML}, 400, "command or a trainable"),
        ("POST", "jobs", {"content": b"\xff", "headers": YAML}, 400, "UTF-8"),
        ("POST", "jobs", {"content": SPEC, "headers": {"Content-Type": "text/plain"}}, 415, "application/yaml"),
        ("POST", "jobs", {"content": "x" * (1 << 21), "headers": YAML}, 413, "bytes"),
        ("POST", "jobs", {"content": SPEC.replace("2", "200"), "headers": YAML}, 400, "more than training's"),
        ("GET", "jobs/nobody", {}, 404, "no such job"),
        ("GET", "jobs/nobody/explain", {}, 404, "no such job"),
        ("GET", "jobs/nobody/logs", {}, 404, "no such job"),
        ("POST", "jobs/nobody/cancel", {"json": {}}, 404, "no such job"),
        ("POST", "loan", {"json": {}}, 400, "missing"),
        ("POST", "loan", {"json": {"servers": True}}, 400, "type int"),
        ("POST", "loan", {"json": {"servers": -1}}, 400, "-1 servers"),
        ("POST", "reclaim", {"json": {"servers": 1, "x": 2}}, 400, "not known"),
        ("POST", "servers/nowhere/drain", {"json": {}}, 404, "no such server"),
        ("POST", "servers/train-0/undrain", {"json": {}}, 409, "not drained"),
        ("POST", "servers/train-0/drain", {"content": "{}"}, 415, "application/json"),
    ],
)
def test_nonsense_is_answered_with_one_clear_line(client, method, path, how, status, said):
    answer = client.request(method, f"/v1/cluster/{path}", **how)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]


def test_absurd_tails_are_refused(client):
    job = submit(client).json()["id"]
    for tail in (0, -1, 1 << 40):
        assert client.get(f"/v1/cluster/jobs/{job}/logs", params={"tail": tail}).status_code == 400


def test_only_administrators_change_anything(world, tmp_path):
    keys = KeyFile(tmp_path / "keys")
    admin = {"Authorization": f"Bearer {keys.add('ops', admin=True)[1]}"}
    other = {"Authorization": f"Bearer {keys.add('guest')[1]}"}
    client = client_of(world, keys)
    assert submit(client).status_code == 401
    assert submit(client, **other).status_code == 403
    job = submit(client, **admin).json()["id"]
    assert client.get("/v1/cluster/jobs", headers=other).status_code == 200
    assert client.get(f"/v1/cluster/jobs/{job}/logs", headers=other).status_code == 403
    assert client.post("/v1/cluster/loan", json={"servers": 1}, headers=other).status_code == 403


def test_figures_for_prometheus(world, client):
    submit(client)
    world.step()
    page = client.get("/metrics").text
    assert 'quiltwork:cluster_jobs{state="running"} 1.0' in page
    assert 'quiltwork:cluster_gpus_free{gpu_type="V100",pool="train"} 6.0' in page
    assert 'quiltwork:cluster_decisions_total{action="start"} 1.0' in page


def test_the_page_is_there(client):
    assert "Cluster" in client.get("/cluster").text
    assert client.get("/static/cluster.js").status_code == 200
