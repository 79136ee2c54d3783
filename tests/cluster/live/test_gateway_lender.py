"""A gateway's load as what inference needs."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from quiltwork.cluster.live.gateway_lender import GatewayLender
from quiltwork.core.errors import BadInputError, QuiltworkError


@pytest.fixture
def gateway():
    """A server whose status a test sets."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append((self.path, self.headers.get("authorization")))
            body = self.server.said
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.said = [], {"servables": {}}
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def url(server):
    return f"http://127.0.0.1:{server.server_port}"


@pytest.mark.parametrize(
    ("running", "waiting", "need"), [(0, 0, 0.0), (1, 0, 0.25), (4, 0, 0.25), (4, 1, 0.5), (50, 9, 1)]
)
def test_what_runs_and_waits_needs_servers(gateway, running, waiting, need):
    gateway.said = {"servables": {"language": {"queue": {"running": running, "waiting": waiting}}, "other": {}}}
    lender = GatewayLender(url(gateway) + "/v1", 4, requests_per_server=4, key="k")
    lender.look()
    assert lender.need() == need
    assert gateway.asked == [("/v1/status", "Bearer k")]


@pytest.mark.parametrize("said", [b"", b"[]", {"servables": []}, {"servables": {"a": {"queue": {"running": "x"}}}}])
def test_nonsense_is_no_load_of_nothing(gateway, said):
    gateway.said = said
    lender = GatewayLender(url(gateway), 4)
    with pytest.raises(QuiltworkError, match="was not asked"):
        lender.need()
    lender.look()
    with pytest.raises(QuiltworkError, match="does not say"):
        lender.need()


def test_a_gateway_that_is_gone_is_no_load_of_nothing(gateway):
    lender = GatewayLender("http://127.0.0.1:9", 4)
    lender.look()
    with pytest.raises(QuiltworkError):
        lender.need()


def test_what_it_needs_is_known_from_the_beginning(gateway):
    with GatewayLender(url(gateway), 3, every_s=60.0) as lender:
        assert lender.need() == 0.0


def test_it_is_asked_by_itself(gateway):
    gateway.said = {"servables": {"language": {"queue": {"running": 3}}}}
    with GatewayLender(url(gateway), 3, requests_per_server=1, every_s=0.01) as lender:
        patience = threading.Event()
        for _ in range(500):
            if len(gateway.asked) > 2:
                break
            patience.wait(0.01)
        assert lender.need() == 1.0


def test_what_is_no_url_is_refused():
    with pytest.raises(BadInputError):
        GatewayLender("localhost:8000", 4)
    with pytest.raises(BadInputError):
        GatewayLender("http://localhost", 0)
