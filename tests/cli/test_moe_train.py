"""``quiltwork moe train`` as a user types it."""

from __future__ import annotations

import json
import shlex

import pytest
from tiny_moe import SMALL, write_corpus

from quiltwork.cli import main


@pytest.fixture
def command(tmp_path):
    words = ["moe", "train", "--task", "lm", "--corpus", *write_corpus(tmp_path, "lm"), "--out", str(tmp_path / "out")]
    for name, value in {**SMALL, "length": 24, "warm_up": 2}.items():
        words += ["--set", f"{name}={value}"]
    return [*words, "--steps", "4"]


def run(words):
    with pytest.raises(SystemExit) as left:
        main(words)
    return left.value.code


def test_it_trains_and_says_how_well(command, tmp_path, capsys):
    assert not run([*command, "--gate", "top1", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["finished"]
    assert told["done"] == 4
    assert told["test"]["bits_per_byte"] > 0
    assert 0 < told["expert_share_of_flops"] < 1
    assert told["metrics"]["experts_per_token"] == 1
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_stopped_it_says_what_goes_on_and_that_does(command, tmp_path, capsys, monkeypatch):
    from contextlib import contextmanager

    asked = iter([False, False, True])

    @contextmanager
    def stop_after_two():
        yield lambda: next(asked, False)

    monkeypatch.setattr("quiltwork.cli.moe_train.asked_to_stop", stop_after_two)
    assert run([*command, "--seed", "5"]) == 1
    said = capsys.readouterr().err.strip()
    assert "stopped after step 2 of 4; go on with: quiltwork moe train" in said
    again = shlex.split(said.partition("go on with: quiltwork ")[2])
    assert not run([*again, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["resumed"]
    assert told["finished"]


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--gate", "guess"], "config: gate: 'guess' is not one of adaptive"),
        (["--set", "speed"], "--set: 'speed' is not NAME=VALUE"),
        (["--valid", "none.txt"], "none.txt: is no file"),
        (["--device", "abacus"], "device: 'abacus' is not a device"),
    ],
)
def test_what_is_wrong_is_one_line(command, capsys, more, line):
    assert run([*command, *more]) == 2
    said = capsys.readouterr().err.strip()
    assert line in said
    assert "\n" not in said
