"""A trace is replayed against a real server; the numbers come from timings alone."""

from __future__ import annotations

import json
import socket
import threading

import pytest
from fake_servable import FakeServable

from quiltwork.cli import main
from quiltwork.cli.open_loop import Answer, summary
from quiltwork.core.names import ModelRef
from quiltwork.gateway import Address, create_app, listen, url_of
from quiltwork.gateway.server import _Server, uvicorn


@pytest.fixture
def fake():
    return FakeServable(ModelRef("base"), ModelRef("law"))


@pytest.fixture
def url(fake):
    app, bound, ready = create_app({"language": fake}), listen(Address(port=0)), threading.Event()
    server = _Server(uvicorn.Config(app, log_level="warning", lifespan="off"), app, ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    assert ready.wait(20)
    yield url_of(bound)
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "t.jsonl"
    rows = [{"timestamp": 10 * i, "input_length": 3 + i, "output_length": 4} for i in range(8)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def run(capsys, *args):
    code = 0
    try:
        main(["replay", *map(str, args)])
    except SystemExit as stop:
        code = stop.code or 0
    return code, *capsys.readouterr()


def test_every_request_is_sent_with_its_lengths(capsys, trace, url, fake):
    args = (trace, "--url", url, "--model", "base", "--model", "law", "--vocabulary", 50, "--json")
    code, out, _ = run(capsys, *args)
    found = json.loads(out)
    assert (code, found["answered"], found["failures"]) == (0, 8, {})
    assert sorted(len(asked[1].fields["prompt"]) for asked in fake.asked) == list(range(3, 11))
    assert {asked[0].name for asked in fake.asked} == {"base", "law"}
    assert found["output_tokens_per_s"] * found["seconds"] == pytest.approx(32)


def test_failures_are_shown(capsys, trace, url):
    code, out, _ = run(capsys, trace, "--url", url, "--model", "base", "--ignore-eos")
    assert code == 1
    assert "0 of 8" in out
    assert "ignore_eos" in out


def test_bad_input_is_one_line(capsys, trace, url, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        absent = f"http://127.0.0.1:{free.getsockname()[1]}"
        cases = [(tmp_path / "no.csv", "--url", url), (trace, "--url", absent, "--model", "base"),
                 (trace, "--url", url, "--model", "nobody")]  # fmt: skip
        for case in cases:
            code, _, err = run(capsys, *case)
            assert code
            assert err.startswith("quiltwork: ")
            assert err.count("\n") == 1


def test_numbers_from_timings():
    answers = [Answer(2.0, 1.0, 5, 11), Answer(4.0, 3.0, 5, 1), Answer(1.0, failure="429: full")]
    found = summary(answers, 10.0, ttft=2.0, tpot=0.2)
    assert found["latency_s"]["end_to_end"]["p50"] == 3.0
    assert found["latency_s"]["tpot"]["p50"] == pytest.approx(0.1)
    assert found["goodput"]["share"] == pytest.approx(1 / 3)
    assert found["output_tokens_per_s"] == pytest.approx(1.2)
    assert found["failures"] == {"429: full": 1}
