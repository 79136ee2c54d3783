"""Addresses, request ids, and what others ask a server to see how it is."""

from __future__ import annotations

import re

import pytest
from asking import ask, complete

from quiltwork.core.errors import BadInputError
from quiltwork.gateway import Address, create_app
from quiltwork.gateway.server import check_address


def test_a_request_keeps_the_id_it_brings_and_gets_one_otherwise(url):
    assert ask(url, **{"X-Request-Id": "mine-7"})[1]["x-request-id"] == "mine-7"
    first, second, odd = (ask(url, **headers)[1]["x-request-id"] for headers in ({}, {}, {"X-Request-Id": "a b" * 100}))
    assert all(re.fullmatch("req-[0-9a-f]{32}", given) for given in (first, second, odd))
    assert first != second


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_others_may_only_come_with_keys(host):
    with pytest.raises(BadInputError, match="keys are needed"):
        check_address(Address(host), keys=False)
    check_address(Address(host), keys=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
def test_this_machine_needs_none(host):
    check_address(Address(host), keys=False)


def test_a_page_of_another_name_gets_nothing(fake, serving):
    with serving(create_app({"l": fake}, hosts={"localhost", "127.0.0.1"})) as url:
        assert ask(url)[0] == 200
        status, _, body = ask(url, Host="evil.example:8000")
        assert (status, body["error"]["param"]) == (400, "Host")


def test_probes_and_figures(url, app):
    assert [ask(url, path=path)[0] for path in ("/healthz", "/health", "/readyz")] == [200, 200, 200]
    complete(url)
    text = ask(url, path="/metrics")[2]
    for name in ("vllm:num_requests_running", "vllm:generation_tokens_total", "quiltwork:"):
        assert name in text
    assert 'model_name="a\\"b\\\\c"' in text
    app.state.house.draining = True
    assert ask(url, path="/healthz")[0] == 200
    assert ask(url, path="/readyz")[0] == 503
    status, _, body = complete(url)
    assert (status, body["error"]["code"]) == (503, "shutting_down")
