"""``quiltwork chat``: a conversation on standard input, each answer on a line of its own."""

from __future__ import annotations

import io
import sys

import pytest
from fake_servable import FakeServable
from openai_servers import serving

from quiltwork.cli import main
from quiltwork.core.names import ModelRef


@pytest.fixture
def fake():
    return FakeServable(ModelRef("base"))


@pytest.fixture
def url(fake):
    with serving(fake) as url:
        yield url


@pytest.fixture
def talk(capsys, monkeypatch, url):
    """Chat with what is said on standard input; gives exit code, standard output and standard error."""

    def call(said, *words, model="base", errors="strict"):
        data = said if isinstance(said, bytes) else said.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors=errors))
        with pytest.raises(SystemExit) as exited:
            main(["chat", model, "--url", url, *words])
        return exited.value.code or 0, *capsys.readouterr()

    return call


def test_every_answer_is_given_with_what_was_said_before(talk, fake):
    told = talk("one\ntwo three\n", "--system", "be kind", "--max-tokens", "2", "--temperature", "0")
    assert told == (0, "ONE ONE\nTWO THREE\n", "")
    first, second = (asked[1].fields["messages"] for asked in fake.asked)
    assert [(m["role"], m["content"]) for m in first] == [("system", "be kind"), ("user", "one")]
    assert [(m["role"], m["content"]) for m in second] == [
        ("system", "be kind"), ("user", "one"), ("assistant", "ONE ONE"), ("user", "two three")
    ]  # fmt: skip
    assert [(asked[2]["max_tokens"], asked[2]["temperature"]) for asked in fake.asked] == [(2, 0), (2, 0)]


@pytest.mark.parametrize("said", ["one\n\ntwo\n", "one\n  \ntwo\n", "one", "one\n"])
def test_an_empty_line_or_the_end_of_input_ends_it(talk, fake, said):
    assert talk(said, "--max-tokens", "1") == (0, "ONE\n", "")
    assert len(fake.asked) == 1


def test_nothing_said_is_nothing_asked(talk, fake):
    assert talk("") == (0, "", "")
    assert fake.asked == []


def test_a_model_that_is_not_there_is_said_before_anything_is_typed(talk):
    code, out, err = talk("", model="nobody")
    assert (code, out) == (2, "")
    assert "nobody" in err
    assert "base" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("said", "code", "out", "named"),
    [
        ("one\nfail now\n", 1, "ONE \nFAIL NOW \n", "the engine failed"),
        ("full\n", 1, "", "no room"),
        ("refuse\n", 2, "", "is refused"),
        (b"ab\xff\n", 2, "", "standard input"),
    ],
)
def test_what_goes_wrong_is_one_line(talk, said, code, out, named):
    got, printed, err = talk(said)
    assert got == code
    assert printed.replace("ONE ONE ONE ONE ONE ONE ONE ONE", "ONE ") == out
    assert named in err
    assert err.count("\n") == 1
    assert err.startswith("quiltwork: ")


def test_bytes_that_a_c_locale_lets_through_are_refused(talk, fake):
    code, _, err = talk(b"ab\xff\n", errors="surrogateescape")
    assert code == 2
    assert "standard input" in err
    assert fake.asked == []


def test_an_answer_can_be_stopped_and_the_talk_goes_on(talk, fake, monkeypatch):
    """Ctrl-C while the first word is printed."""
    write = sys.stdout.write
    left = [1]

    def interrupted(text):
        if "HANG" in text and left.pop():
            raise KeyboardInterrupt
        return write(text)

    monkeypatch.setattr(sys.stdout, "write", interrupted)
    code, out, err = talk("hang\nagain\n", "--max-tokens", "1")
    assert (code, out, err) == (0, " [stopped]\nAGAIN\n", "")
    assert fake.cancelled.wait(20)


def test_what_each_answer_went_through_is_printed_beside_it(talk):
    code, out, err = talk("one\ntwo\n", "--max-tokens", "1", "--explain")
    assert (code, out) == (0, "ONE\nTWO\n")
    assert err.count("embed .. head") == 2


def test_an_answer_that_was_stopped_is_not_explained(talk, monkeypatch):
    write, left = sys.stdout.write, [1]

    def interrupted(text):
        if "HANG" in text and left.pop():
            raise KeyboardInterrupt
        return write(text)

    monkeypatch.setattr(sys.stdout, "write", interrupted)
    assert talk("hang\n", "--explain") == (0, " [stopped]\n", "")
