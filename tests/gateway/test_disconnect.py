"""A client that goes, whichever way and whenever, cancels what it asked for; the server keeps serving."""

from __future__ import annotations

import json
import logging
import re
import socket
import struct
from urllib.parse import urlsplit

import pytest
from asking import ask, complete

BODIES = {
    "/v1/completions": {"model": "law", "prompt": "hang"},
    "/v1/chat/completions": {"model": "law", "messages": [{"role": "user", "content": "hang"}]},
}


def close(connection):
    connection.close()


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def half_close(connection):
    connection.shutdown(socket.SHUT_WR)


def connect(url):
    place = urlsplit(url)
    return socket.create_connection((place.hostname, place.port), timeout=20)


def request(path, body, *, length=None):
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {length or len(data)}\r\n\r\n".encode() + data


def read_until(connection, wanted):
    got = b""
    while wanted not in got:
        more = connection.recv(65536)
        assert more, got
        got += more
    return got


def settled(url, app):
    """Wait until no request but the one that asks is being answered."""
    for _ in range(10_000):
        figures = ask(url, path="/metrics")[2]
        if re.search(r"^quiltwork:http_requests_in_flight 1\.0$", figures, re.MULTILINE):
            break
    else:
        pytest.fail("requests of clients that have gone are still being answered")
    assert app.state.house.turnstile.inside == {}


@pytest.fixture
def errors(caplog):
    """What is logged as the server's own fault."""
    with caplog.at_level(logging.WARNING):
        yield lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("leave", [close, reset, half_close])
@pytest.mark.parametrize("path", list(BODIES))
def test_a_client_that_goes_in_the_middle_of_a_stream(url, app, fake, errors, path, leave):
    with connect(url) as connection:
        connection.sendall(request(path, {**BODIES[path], "stream": True}))
        read_until(connection, b"HANG")
        leave(connection)
        assert fake.cancelled.wait(20)
    settled(url, app)
    assert errors() == []
    assert complete(url)[0] == 200


@pytest.mark.parametrize("leave", [close, reset, half_close])
@pytest.mark.parametrize("path", list(BODIES))
def test_a_client_that_goes_while_a_whole_reply_is_awaited(url, app, fake, errors, path, leave):
    with connect(url) as connection:
        connection.sendall(request(path, BODIES[path]))
        assert fake.started.wait(20)
        leave(connection)
        assert fake.cancelled.wait(20)
    settled(url, app)
    assert errors() == []
    assert complete(url)[0] == 200


@pytest.mark.parametrize("leave", [close, reset, half_close])
@pytest.mark.parametrize("path", [*BODIES, "/tokenize", "/models/load"])
def test_a_client_that_goes_before_its_body_has_come(url, app, fake, errors, path, leave):
    with connect(url) as connection:
        connection.sendall(request(path, {"model": "law"}, length=5000))
        leave(connection)
        settled(url, app)
    assert fake.asked == []
    assert errors() == []
    assert complete(url)[0] == 200


@pytest.mark.parametrize(
    "sent",
    [b"", b"G", b"GET /v1/mod", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 500],
)
def test_a_client_that_goes_before_it_has_asked(url, app, sent):
    with connect(url) as connection:
        connection.sendall(sent)
    settled(url, app)
    assert complete(url)[0] == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"NONSENSE\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: minus one\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused(url, app, sent):
    with connect(url) as connection:
        try:
            connection.sendall(sent)
            assert connection.recv(65536).startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))
        except ConnectionError:
            pass  # it may hang up before it has read all of it
    settled(url, app)
    assert complete(url)[0] == 200


def test_a_connection_is_used_again_after_a_refusal(url):
    with connect(url) as connection:
        connection.sendall(request("/v1/completions", {"model": "nobody", "prompt": "a"}))
        assert b" 404 " in read_until(connection, b"}}")
        connection.sendall(request("/v1/completions", {"model": "law", "prompt": "a b", "max_tokens": 2}))
        assert b"A B" in read_until(connection, b"served")


def test_the_other_prompts_of_a_request_end_with_the_one_that_fails(url, app, fake):
    status, _, body = complete(url, prompt=["hang", "fail"])
    assert (status, body["error"]["message"]) == (500, "the engine failed")
    assert fake.cancelled.wait(20)
    settled(url, app)


def test_the_prompts_before_one_that_is_refused_are_cancelled(url, app, fake):
    assert complete(url, prompt=["hang", "full"])[0] == 429
    assert fake.cancelled.wait(20)
    settled(url, app)
