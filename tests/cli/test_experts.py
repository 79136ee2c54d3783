"""``quiltwork up`` serves a model with experts, and ``quiltwork complete`` and ``chat`` turn its knob."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import contextmanager

import openai
import pytest
from served_sparse import save, sparse, tuned

from quiltwork.cli import main
from quiltwork.cli.client import experts_of
from quiltwork.core.errors import BadInputError
from quiltwork.zoo import Zoo

QUILTWORK = (sys.executable, "-c", "from quiltwork.cli import main; main()")
PROMPT = "the king said that the dog was very happy"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experts")
    with Zoo(folder / "zoo") as opened:
        opened.add(save(sparse(), folder / "mix"))
        opened.add(save(tuned(), folder / "fine"))
    return folder / "zoo"


@contextmanager
def up(zoo, *options):
    """The URL of a server in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QUILTWORK_")}
    process = subprocess.Popen(
        [*QUILTWORK, "up", "--zoo", str(zoo), "--port", "0", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=kept | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        said = process.stdout.readline()
        assert said.startswith("quiltwork: serving "), said + process.stderr.read()
        yield said.split()[-1]
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def server(zoo):
    with up(zoo) as url:
        yield url


def answers(url):
    """What both models say under every knob, and what they took for it."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        told = {}
        for model in ("mix", "fine"):
            for knob in (None, 1, "adaptive", {"threshold": 0.3, "most": 4}):
                reply = client.completions.create(
                    model=model, prompt=PROMPT, max_tokens=8, temperature=0,
                    extra_body={"ignore_eos": True, "experts": knob},
                )  # fmt: skip
                told[model, str(knob)] = (reply.choices[0].text, reply.usage.experts_per_token)
        return told


def test_up_serves_models_with_experts_and_their_knob(server):
    told = answers(server)
    assert told["mix", "None"][1] == told["fine", "None"][1] == 2
    assert told["mix", "1"][1] == 1
    assert 1 < told["mix", "adaptive"][1] < 2
    assert len({text for text, _ in told.values()}) > 4


@pytest.mark.slow
def test_two_agents_say_the_same(server, zoo):
    with up(zoo, "--agents", "2") as url:
        shared = answers(url)
    alone = answers(server)
    assert {asked: text for asked, (text, _) in shared.items()} == {asked: text for asked, (text, _) in alone.items()}
    assert shared["mix", "1"][1] == 1
    assert 1 < shared["fine", "adaptive"][1] < 2


def run(capsys, monkeypatch, *args, said=""):
    """Exit code, output and errors of a command that reads what is said."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(said.encode())))
    with pytest.raises(SystemExit) as exited:
        main(list(args))
    out, err = capsys.readouterr()
    return exited.value.code, out, err


@pytest.mark.parametrize(("experts", "taken"), [("1", (1, 1)), ("3", (3, 3)), ("adaptive", (1, 2)), ("0.3:4", (1, 4))])
def test_complete_turns_the_knob(server, capsys, monkeypatch, experts, taken):
    args = ("complete", PROMPT, "--model", "mix", "--max-tokens", "4", "--url", server, "--json", "--experts", experts)
    code, out, _ = run(capsys, monkeypatch, *args)
    assert code == 0
    assert taken[0] <= json.loads(out)["usage"]["experts_per_token"] <= taken[1]


def test_chat_turns_it_too(server, capsys, monkeypatch):
    asked = ("chat", "mix", "--max-tokens", "4", "--temperature", "0", "--url", server)
    one, two = (run(capsys, monkeypatch, *asked, "--experts", experts, said="hello\n")[:2] for experts in ("1", "4"))
    assert one[0] == two[0] == 0
    assert one[1] != two[1]


def test_a_number_of_experts_is_read_as_it_is_written():
    assert [experts_of(text) for text in ("2", "adaptive", "0.1", "0.1:3", "1.0", "1:2")] == [
        2, "adaptive", {"threshold": 0.1}, {"threshold": 0.1, "most": 3}, {"threshold": 1.0},
        {"threshold": 1.0, "most": 2},
    ]  # fmt: skip
    for bad in ("", "two", "0.1:", ":2", "0.1:x", "1,5"):
        with pytest.raises(BadInputError, match="is not a number of experts"):
            experts_of(bad)


@pytest.mark.parametrize(
    ("experts", "says"),
    [("many", "is not a number of experts"), ("9", "9 of 4 experts cannot be taken"), ("0", "minimum")],
)
def test_what_cannot_be_meant_is_one_line(server, capsys, monkeypatch, experts, says):
    args = ("complete", PROMPT, "--model", "mix", "--url", server, "--experts", experts)
    code, _, err = run(capsys, monkeypatch, *args)
    assert code == 2
    assert says in err
    assert len(err.strip().splitlines()) <= 2
