"""Bodies that are wrong, too long or of another kind: told so by field, and the server keeps serving."""

from __future__ import annotations

import json

import pytest
from asking import ask, complete
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from quiltwork.core.errors import BadInputError
from quiltwork.gateway import create_app
from quiltwork.gateway.body import parse_json
from quiltwork.gateway.limits import Limits
from quiltwork.gateway.schemas import check

TEXT = st.text(st.characters(codec="utf-8"), max_size=10)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
)


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
        (b"[" * 200_000, 400, "nested more than 64 deep"),
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


# --- shape ----------------------------------------------------------------------------------------------------------


@given(JSON_VALUES)
def test_json_is_read_as_it_is(value):
    assert parse_json(json.dumps(value).encode()) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


@given(st.text('[]{}"\\:,a1 \n', max_size=300))
def test_what_is_refused_is_what_a_parser_refuses(text):
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(BadInputError):
            parse_json(text.encode())
    else:
        assert parse_json(text.encode()) == expected


@pytest.mark.parametrize("depth", [1, 63, 64])
def test_depth_is_counted_outside_of_texts(depth):
    text = '["' + "[{" * 500 + '\\"[\\\\"' + ", [1]" * 100 + "]"
    nested = "[" * (depth - 2) + text + "]" * (depth - 2) if depth > 2 else text
    parse_json(nested.encode())
    with pytest.raises(BadInputError, match="nested more than 64 deep"):
        parse_json(("[" * 64 + text + "]" * 64).encode())


@pytest.mark.parametrize("piece", ["[]", "{}", '{"":0}', '[""]'])
def test_too_many_pieces_are_refused(url, fake, piece):
    body = '{"model": "law", "prompt": "a", "x": [' + ",".join([piece] * 300_001) + "]}"
    status, _, reply = ask(url, "POST", "/v1/completions", body.encode())
    assert status == 400
    assert "lists, objects and fields" in reply["error"]["message"]


def test_long_texts_and_long_lists_are_no_pieces(url, fake):
    prompt = '[{"a": 1}, ' * 100_000
    assert complete(url, prompt=prompt, max_tokens=1)[0] == 200
    assert fake.asked[-1][1].fields["prompt"] == prompt
    ids = list(range(200_000))
    assert complete(url, prompt=ids, max_tokens=1)[0] == 200
    assert fake.asked[-1][1].fields["prompt"] == ids


@pytest.mark.parametrize(
    ("prompt", "where"),
    [([1] * 1000 + [-1], "prompt"), (["a"] * 1025, "prompt"), ([[1]] * 1025, "prompt"), ([1, "a"], "prompt")],
)
def test_a_long_prompt_with_something_wrong_in_it(url, fake, prompt, where):
    status, _, reply = complete(url, prompt=prompt)
    assert (status, reply["error"]["param"].split("[")[0]) == (400, where)
    assert fake.asked == []


ITEMS = st.sampled_from(
    [
        {"type": "integer"},
        {"type": "integer", "minimum": 0, "maximum": 5},
        {"type": "string"},
        {"type": "string", "minLength": 1, "maxLength": 2},
        {"type": "string", "pattern": "a"},
        {"enum": [1, "a"]},
        True,
        False,
    ]
)
VALUES = st.lists(
    st.one_of(st.integers(-2, 8), st.text("ab", max_size=3), st.booleans(), st.sampled_from([1.0, 1.5, None]))
)


@given(ITEMS, VALUES, st.booleans())
def test_lists_are_checked_as_jsonschema_does(items, values, prefixed):
    schema = {"type": "array", "items": items, **({"prefixItems": [{"type": "integer"}]} if prefixed else {})}
    if Draft202012Validator(schema).is_valid(values):
        check(values, schema)
    else:
        with pytest.raises(BadInputError):
            check(values, schema)


# --- forms ----------------------------------------------------------------------------------------------------------


def form(url, data, boundary="b"):
    return ask(url, "POST", "/v1/pose", data, **{"Content-Type": f"multipart/form-data; boundary={boundary}"})


def part(head, content=b""):
    return b"--b\r\n" + head + b"\r\n\r\n" + content + b"\r\n"


NAMED = b'Content-Disposition: form-data; name="%b"'


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "does not end with its boundary"),
        (part(NAMED % b"model", b"law"), "does not end with its boundary"),
        (part(b"X: y", b"law") + b"--b--", "has no name"),
        (part(NAMED % b"words", b"\xff") + b"--b--", "not UTF-8"),
        (part(NAMED % b"words", b"[" * 5000) + b"--b--", "nested more than 64 deep"),
        (part(NAMED % b"model", b"law") * 2 + b"--b--", "is given twice"),
        (part(NAMED % b"image", b"a") * 1001 + b"--b--", "more than 1000 parts"),
        (b"--b\r\n" * 100_000 + b"--b--", "more than 1000 parts"),
        (part(b"X: y\r\n" * 100_000, b"") + b"--b--", "the header of a part"),
    ],
)
def test_a_form_that_is_wrong_is_told_what_is_wrong(url, fake, data, told):
    status, _, reply = form(url, data)
    assert status == 400
    assert told in reply["error"]["message"]
    assert fake.asked == []
    assert complete(url)[0] == 200


@pytest.mark.parametrize("boundary", ["", '""'])
def test_a_form_without_a_boundary(url, boundary):
    status, _, reply = form(url, b"--b--", boundary)
    assert (status, reply["error"]["param"]) == (400, "Content-Type")
