"""``quiltwork complete``: text goes out, text comes back, and what goes wrong is one line."""

from __future__ import annotations

import io
import json
import socket
import sys

import pytest
from fake_servable import FakeServable
from openai_servers import answering, event, serving

from quiltwork.cli import main
from quiltwork.core.names import ModelRef
from quiltwork.gateway.tenants import KeyFile


@pytest.fixture
def fake():
    return FakeServable(ModelRef("base"))


@pytest.fixture
def url(fake):
    with serving(fake) as url:
        yield url


@pytest.fixture
def run(capsys):
    def call(*words):
        with pytest.raises(SystemExit) as exited:
            main(["complete", *words])
        return exited.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture
def stdin(monkeypatch):
    return lambda data: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def one_line(told, code, *named):
    assert told[0] == code
    assert told[2].startswith("quiltwork: ")
    assert told[2].count("\n") == 1
    assert all(name in told[2] for name in named)


def test_the_answer_is_printed(run, url, fake):
    assert run("say it", "--max-tokens", "3", "--temperature", "0", "--url", url) == (0, "SAY IT SAY\n", "")
    (asked,) = fake.asked
    assert asked[0] == ModelRef("base")
    assert (asked[2]["max_tokens"], asked[2]["temperature"]) == (3, 0)


@pytest.mark.parametrize("words", [(), ("-",)])
def test_the_text_comes_from_standard_input(run, url, stdin, words):
    stdin("é ü\n".encode())
    assert run(*words, "--max-tokens", "2", "--url", url) == (0, "É Ü\n", "")


def test_json_is_the_whole_reply(run, url):
    code, out, _ = run("é", "--max-tokens", "2", "--json", "--url", f"{url}/v1/")
    found = json.loads(out)
    assert code == 0
    assert found["choices"][0]["text"] == "É É"
    assert found["usage"]["completion_tokens"] == 2


def test_what_a_request_went_through_is_printed_beside_the_answer(run, url):
    code, out, err = run("say it", "--max-tokens", "2", "--explain", "--url", url)
    assert (code, out) == (0, "SAY IT\n")
    assert "embed .. head" in err
    assert "3 sibling found; 2 computed, 1 of them again after 1 preemptions" in err
    assert "prefill 2.0" in err
    assert "4 of 9 drafted tokens accepted" in err
    code, out, err = run("say", "--max-tokens", "2", "--explain", "--json", "--url", url)
    assert (code, err) == (0, "")
    assert json.loads(out)["explain"]["choices"][0]["hops"][0]["last"] == "head"


@pytest.mark.parametrize("told", [{}, {"explain": 3}, {"explain": {"choices": [{"hops": 1}]}}])
def test_a_server_that_does_not_explain_is_told_so(run, told):
    with answering(event("a", "stop", **told)) as url:
        found = run("x", "--explain", "--url", url)
        one_line(found, 1, "explanation")
        assert found[1] == "a\n"


def test_the_model_must_be_named_where_there_are_several(run, url, fake):
    fake.refs.append(ModelRef("law"))
    one_line(run("x", "--url", url), 2, "--model", "base, law")
    assert run("x", "--model", "law", "--max-tokens", "1", "--url", url) == (0, "X\n", "")


def test_a_key_goes_with_it(run, tmp_path, fake):
    keys = KeyFile(tmp_path / "k.json")
    _, key = keys.add("red")
    with serving(fake, keys=keys) as url:
        assert run("x", "--max-tokens", "1", "--key", key, "--url", url) == (0, "X\n", "")
        one_line(run("x", "--url", url), 2, "API key")
        one_line(run("x", "--key", "clé", "--url", url), 2, "--key")


def test_what_the_server_refuses_is_one_line(run, url):
    one_line(run("x", "--model", "nobody", "--url", url), 2, "nobody")
    one_line(run("x", "--model", "", "--url", url), 2, "model")
    one_line(run("x", "--max-tokens", "-1", "--url", url), 2, "max_tokens")
    one_line(run("x", "--temperature", "1000", "--url", url), 2, "temperature")
    one_line(run("full", "--url", url), 1, "no room")
    one_line(run("crash", "--url", url), 1)
    told = run("fail over", "--url", url)
    one_line(told, 1, "the engine failed")
    assert told[1] == "FAIL OVER \n"


def test_bytes_that_are_no_text_are_refused(run, url, stdin, fake):
    stdin(b"ab\xff")
    one_line(run("--url", url), 2, "standard input", "byte 2")
    one_line(run("ab\udcff", "--url", url), 2, "prompt")
    one_line(run("x", "--model", "\udcff", "--url", url), 2, "--model")
    assert fake.asked == []


@pytest.mark.parametrize(
    "url", ["localhost:8000", "", "ftp://x", "http://", "http://[::1", "http://a:b", "http://a:99999", "http://a\nb"]
)
def test_what_is_no_url_is_said(run, url):
    one_line(run("x", "--url", url), 2, "--url")


def test_a_server_that_is_not_there(run):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        one_line(run("x", "--url", url), 1, url, "quiltwork up")


@pytest.mark.parametrize(
    "models", [b"<html>\n<b>Welcome</b>", b"{}", b'{"data": null}', b"{nonsense", b'{"data": [1]}']
)
def test_a_server_of_another_kind(run, models):
    with answering(models=models) as url:
        told = run("x", "--url", url)
        one_line(told, told[0])
        assert told[0] in (1, 2)
        one_line(run("x", "--model", "m", "--url", url), 1, "cut off")
        one_line(run("x", "--model", "m", "--json", "--url", url), 1, "OpenAI")


def test_an_answer_that_breaks_off_is_a_failure(run):
    with answering(event("a "), event("b")) as url:
        told = run("x", "--url", url)
        one_line(told, 1, "cut off")
        assert told[1] == "a b\n"
    with answering(event("a"), end=b"data: nonsense\n\n") as url:
        one_line(run("x", "--url", url), 1)
