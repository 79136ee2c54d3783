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
        (["--device", "meta"], "device: nothing can be computed on 'meta' here"),
        (["--out", "/"], "--out: / is no folder that can be made"),
        (["--seed", str(10**20)], f"seed: {10**20} is not from 0 to"),
        (["--set", "gate=null"], "config: gate: is nothing"),
        (["--set", "corpus=[]"], "config: corpus: names no file"),
        (["--set", "width=65536"], "B while it learns"),
        (["--set", "batch=16777216"], "tokens at once take"),
        (["--gate", "null", "--set", "nulls=2000000000"], "B while it learns"),
        (["--set", "inner=262144", "--set", "layers=1024", "--set", "experts=4096"], "B while it learns"),
    ],
)
def test_what_is_wrong_is_one_line(command, capsys, more, line):
    assert run([*command, *more]) == 2
    said = capsys.readouterr().err.strip()
    assert line in said
    assert "\n" not in said


def test_where_no_checkpoint_can_be_written_it_says_so_before_it_learns(command, tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    assert run([*command, "--checkpoint", str(tmp_path / "file" / "state")]) == 1
    said = capsys.readouterr()
    assert "cannot be used: Not a directory" in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("named", [(1, 2), ("1", "2")])
def test_columns_of_a_table_without_a_header_are_named_by_numbers(tmp_path, capsys, named):
    rows = "".join(f"it was {'good' if at % 2 else 'bad'} {at},{at % 2}\n" for at in range(80))
    (tmp_path / "rows.csv").write_text(rows)
    words = ["moe", "train", "--task", "classify", "--corpus", str(tmp_path / "rows.csv"), "--steps", "1"]
    words += ["--out", str(tmp_path / "out"), "--set", f"text_column={named[0]}", "--set", f"label_column={named[1]}"]
    for name, value in SMALL.items():
        words += ["--set", f"{name}={value}"]
    assert not run([*words, "--json"])
    assert json.loads(capsys.readouterr().out)["finished"]
