"""Bodies that are wrong, too long or of another kind: told so by field, and the server keeps serving."""

from __future__ import annotations

import json

import pytest
from asking import ask, complete

from quiltwork.gateway import create_app
from quiltwork.gateway.limits import Limits


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"", 400, "is not JSON"),
        (b"{", 400, "is not JSON"),
        (b"[]", 400, "must be a JSON object"),
        (b"null", 400, "must be a JSON object"),
        (b'{"model": "law", "prompt": "\xff"}', 400, "is not UTF-8 at byte 28"),
        (b'{"model": "law", "prompt": "\\ud800"}', 400, "half of a surrogate pair"),
        (b'{"model": "law", "prompt": "a", "temperature": NaN}', 400, "NaN is not a JSON number"),
        (b'{"model": "law", "prompt": "a", "temperature": 1e999}', 400, "number that is too large"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, 400, "nested more than 64 deep"),
        (b"[" * 200_000, 400, "nested too deeply"),
        (b'{"model": "law", "prompt": "a", "max_tokens": -1}', 400, "max_tokens"),
        (b'{"model": "law", "prompt": "a", "max_tokens": 1' + b"0" * 5000 + b"}", 400, ""),
        (b'{"model": "law", "prompt": "a", "max_tokens": 99999999999999999999}', 400, "max_tokens"),
        (b'{"model": "law", "prompt": "a", "tempreature": 1}', 400, "tempreature"),
        (b'{"model": 7, "prompt": "a"}', 400, "model"),
        (b'{"prompt": "a"}', 400, "model"),
        (b'{"model": "law"}', 400, "prompt"),
    ],
)
def test_a_body_that_is_wrong_is_told_what_is_wrong(url, fake, body, status, told):
    got, headers, reply = ask(url, "POST", "/v1/completions", body)
    assert got == status
    assert set(reply["error"]) == {"message", "type", "param", "code"}
    assert told in reply["error"]["message"]
    assert headers["x-request-id"].startswith("req-")
    assert fake.asked == []
    assert complete(url)[0] == 200


def test_a_body_over_the_limit_is_refused_however_it_comes(fake, serving):
    with serving(create_app({"l": fake}, limits=Limits(body_bytes=1000))) as url:
        whole = json.dumps({"model": "law", "prompt": "a" * 2000}).encode()
        assert ask(url, "POST", "/v1/completions", whole)[0] == 413
        in_pieces = iter([whole[:600], whole[600:]])  # chunked: no length is declared
        status, _, body = ask(url, "POST", "/v1/completions", in_pieces)
        assert (status, body["error"]["code"]) == (413, "too_large")
        assert complete(url)[0] == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_another_content_type_is_refused(url, kind):
    body = json.dumps({"model": "law", "prompt": "a"})
    assert ask(url, "POST", "/v1/completions", body, **{"Content-Type": kind})[0] == 415


def test_a_path_that_is_not_there_and_a_method_that_is_not_meant(url):
    assert ask(url, path="/v1/nothing")[2]["error"]["type"] == "not_found_error"
    assert ask(url, "GET", "/v1/completions")[0] == 405
