"""``quiltwork text train``: vectors of a corpus, stopped by Ctrl-C and gone on with by the line that it prints."""

from __future__ import annotations

import json
import os
import shlex
import signal

import pytest
import typer
from typer.testing import CliRunner

from quiltwork.cli.text_train import train
from quiltwork.core.errors import QuiltworkError
from quiltwork.text.files import Folder
from quiltwork.text.vectors.model import WordVectors
from quiltwork.text.vectors.training import TextVectors

SMALL = ("--set", "buckets=200", "--dimensions", 8, "--min-count", 1, "--epochs", 2, "--set", "step_tokens=1")


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("".join(f"gene {i % 7} acts on cell {i % 5} .\n" for i in range(9000)))
    return path


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(train)

    def call(*words, code=0):
        result = CliRunner().invoke(app, [str(word) for word in words])
        if isinstance(result.exception, QuiltworkError):
            return result.exception
        assert result.exit_code == code, result.output
        return result

    return call


def test_it_trains_and_tells_what_of(run, corpus, tmp_path):
    out = tmp_path / "model"
    told = json.loads(run("--corpus", corpus, "--out", out, *SMALL, "--json").stdout)
    assert (told["finished"], told["resumed"], told["out"]) == (True, False, str(out))
    assert (told["sentences"], told["tokens"]) == (9000, 63_000)
    assert told["words"] == len(WordVectors.load(Folder(out)).vocabulary.words) == 11
    assert "63,000" in run("--corpus", corpus, "--out", out, *SMALL).stdout


def test_ctrl_c_stops_after_the_step_under_way_and_the_line_goes_on_to_the_same_end(run, corpus, tmp_path, monkeypatch):
    words = ("--corpus", corpus, *SMALL, "--model", "word2vec", "--words", 0.9, "--seed", 3)
    words = [word for word in words if word not in ("--set", "buckets=200")] + ["--set", "step_tokens=1"]
    run("--out", tmp_path / "whole", *words)
    step, steps = TextVectors.step, []

    def interrupted(self):
        steps.append(0)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    monkeypatch.setattr(TextVectors, "step", interrupted)
    stopped = run("--out", tmp_path / "parts", *words, code=1)
    [line] = stopped.stderr.splitlines()
    assert line.startswith("quiltwork: stopped after step 3 of ")
    assert not (tmp_path / "parts").exists()
    again = shlex.split(line.partition("go on with: ")[2])
    assert again[:3] == ["quiltwork", "text", "train"]
    told = json.loads(run(*again[3:], "--json").stdout)
    assert (told["finished"], told["resumed"]) == (True, True)
    whole, parts = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--corpus", "/nowhere.txt"), "no such file or folder"),
        (("--model", "glove"), "is not one of word2vec, fasttext"),
        (("--set", "window"), "is not NAME=VALUE"),
        (("--set", "colour=red"), "colour: is not a setting"),
        (("--dimensions", 0), "dimensions: must be a positive whole number"),
        (("--epochs", 10**12), "epochs: 1000000000000 is absurdly large"),
        (("--words", "nan"), "words: must be a number"),
    ],
)
def test_a_mistake_is_one_line(run, corpus, tmp_path, words, said):
    given = ("--corpus", corpus) if "--corpus" not in words else ()
    error = run("--out", tmp_path / "model", *given, *words)
    assert said in str(error)
    assert "\n" not in str(error)


def test_a_checkpoint_of_another_training_is_named(run, corpus, tmp_path):
    run("--corpus", corpus, "--out", tmp_path / "model", *SMALL)
    error = run("--corpus", corpus, "--out", tmp_path / "model", *SMALL, "--seed", 1)
    assert "another training" in str(error)
    assert "model.checkpoint.safetensors" in str(error)
