"""A socket, and an end that cuts nobody off."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from asking import complete

from quiltwork.core.errors import BadInputError, QuiltworkError
from quiltwork.gateway import Address, check_address, listen, url_of

PROGRAM = """
import sys
from fake_servable import FakeServable
from quiltwork.core.names import ModelRef
from quiltwork.gateway import Address, create_app, listen, serve, url_of

bound = listen(Address(port=0))
app = create_app({"language": FakeServable(ModelRef("law"))})
serve(app, bound, ready=lambda: print(url_of(bound), flush=True), grace_seconds=int(sys.argv[1]))
print("ended", flush=True)
"""


@pytest.fixture
def process():
    """Starts a server in a process of its own: (process, URL)."""
    started = []

    def start(grace_seconds):
        path = str(Path(__file__).parents[1] / "lib")
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(grace_seconds)],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        started.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def stream(url, prompt, max_tokens):
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=30)
    body = {"model": "law", "prompt": prompt, "stream": True, "max_tokens": max_tokens}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    assert reply.status == 200
    assert b"data: " in reply.readline()
    return connection, reply


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_what_runs_is_finished_and_nothing_new_is_taken(process, signal_number):
    running, url = process(30)
    place = urlsplit(url)
    connection, reply = stream(url, "slow b", 100)
    running.send_signal(signal_number)
    rest = reply.read()
    assert rest.count(b'"finish_reason":"length"') == 1
    assert rest.endswith(b"data: [DONE]\n\n")
    connection.close()
    assert running.stdout.readline() == "ended\n"
    assert running.wait(20) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((place.hostname, place.port), timeout=30)


def test_what_hangs_is_cut_off_when_its_time_is_up(process):
    running, url = process(1)
    connection, _ = stream(url, "hang", 5)
    running.send_signal(signal.SIGTERM)
    assert running.stdout.readline() == "ended\n"
    assert running.wait(30) == 0
    connection.close()


def test_a_second_interrupt_ends_at_once(process):
    running, url = process(10_000)
    connection, _ = stream(url, "hang", 5)
    running.send_signal(signal.SIGINT)
    # Refused as soon as the first was heard.
    for _ in range(100_000):
        try:
            refused = complete(url)[0] == 503
        except OSError:
            refused = True
        if refused:
            break
    running.send_signal(signal.SIGINT)
    assert running.wait(30) == 0
    assert running.stdout.readline() == "ended\n"
    connection.close()


def test_a_taken_port_is_one_clear_error():
    bound = listen(Address(port=0))
    try:
        with pytest.raises(QuiltworkError, match=r"cannot listen on 127\.0\.0\.1") as caught:
            listen(Address(port=bound.getsockname()[1]))
        assert caught.value.hint == "choose another --port"
    finally:
        bound.close()


@pytest.mark.parametrize("host", ["no such host", "999.1.1.1", "a" * 300, "\ud800"])
def test_an_address_that_is_none(host):
    with pytest.raises(BadInputError) as caught:
        listen(Address(host, 0))
    assert caught.value.where == "--host"


@pytest.mark.parametrize("port", [-1, 65536, 10**9])
def test_a_port_that_is_none(port):
    with pytest.raises(BadInputError) as caught:
        check_address(Address(port=port), keys=False)
    assert caught.value.where == "--port"


def test_the_url_of_either_protocol():
    bound = listen(Address(port=0))
    assert url_of(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}"
    bound.close()
    if socket.has_ipv6:
        try:
            bound = listen(Address("::1", 0))
        except QuiltworkError:
            pytest.skip("this machine has no IPv6")
        assert url_of(bound).startswith("http://[::1]:")
        bound.close()


def test_many_clients_at_once(url, fake):
    results = []
    threads = [
        threading.Thread(target=lambda at=at: results.append(complete(url, prompt=f"w{at}", max_tokens=3)[2]))
        for at in range(40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(r["choices"][0]["text"] for r in results) == sorted(f"W{at} W{at} W{at}" for at in range(40))
    assert len({r["id"] for r in results}) == 40
