"""``quiltwork moe upcycle`` and ``calibrate``, as a user runs them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_sparse import build, outputs

from quiltwork.cli import main
from quiltwork.moe import load_moe, read_thresholds, sparse_blocks
from quiltwork.moe.checkpoints import calibrating
from quiltwork.moe.checkpoints.calibration import Measured


@pytest.fixture
def run(capsys):
    def call(*words, code=0):
        capsys.readouterr()  # what transformers says while a test writes a model
        with pytest.raises(SystemExit) as left:
            main(["moe", *map(str, words)])
        told = capsys.readouterr()
        assert (left.value.code or 0) == code, told.err
        if code:
            assert told.err.startswith("quiltwork: ")
            assert told.err.count("\n") == 1
        return told

    return call


@pytest.fixture
def dense(tmp_path):
    build("llama", vocab_size=256).save_pretrained(tmp_path / "dense")
    return tmp_path / "dense"


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("".join(f"the {i % 7} cats saw {i % 5} dogs\n" for i in range(200)))
    return path


def test_a_dense_folder_becomes_a_mixtral_and_is_calibrated(run, dense, corpus, tmp_path):
    told = json.loads(run("upcycle", dense, "--experts", 4, "--out", tmp_path / "moe", "--json").out)
    assert (told["format"], told["experts"], told["layers"]) == ("mixtral", 4, [0, 1])
    few = ("--tokenizer", "byte", "--length", 32, "--tokens", 512)
    told = json.loads(run("calibrate", tmp_path / "moe", "--corpus", corpus, *few, "--json").out)
    assert told["thresholds"] == str(tmp_path / "moe.thresholds.json")
    assert told["calibration"]["text"].startswith("characters 0 to ")
    assert told["verification"]["part"] == "verification"
    assert told["calibration"]["experts"] == 1.0
    assert told["holds"] is True
    assert list(read_thresholds(told["thresholds"]).layers) == [0, 1]
    run("calibrate", tmp_path / "moe", "--corpus", corpus, *few, "--save", tmp_path / "lean")
    lean = sparse_blocks(load_moe(tmp_path / "lean"))
    assert {index: block.layer.gate for index, block in lean.items()} == read_thresholds(told["thresholds"]).gates()


def test_the_frontier_and_both_parts_are_printed(run, dense, corpus, tmp_path):
    build("mixtral", vocab_size=256).save_pretrained(tmp_path / "theirs")
    said = run("calibrate", tmp_path / "theirs", "--corpus", corpus, "--max-loss", "100%", "--tokenizer", "byte",
               "--length", 32, "--tokens", 512, "--method", "greedy", "--out", tmp_path / "t.json").out  # fmt: skip
    for words in ("experts per token", "chosen", "Calibration part: characters 0", "Verification part", "t.json"):
        assert words in said


def test_where_the_bound_does_not_hold_on_the_other_part_nothing_is_written(run, corpus, tmp_path, monkeypatch):
    build("mixtral", vocab_size=256).save_pretrained(tmp_path / "theirs")
    measure = calibrating.measure_part

    def dearer_there(model, part, batch):
        """Experts that are worth nothing on the part that is chosen by, and something on the other."""
        experts = measure(model, part, batch).experts
        missing = sum(2.0 - each for each in experts) if part.name == "verification" else 0.0
        return Measured(np.full(len(part.windows), 2.0 + missing), experts)

    monkeypatch.setattr(calibrating, "measure_part", dearer_there)
    words = ("calibrate", tmp_path / "theirs", "--corpus", corpus, "--tokenizer", "byte", "--length", 32)
    told = run(*words, "--save", tmp_path / "lean", "--json", code=1)
    assert "nothing was written" in told.err
    assert json.loads(told.out)["holds"] is False
    assert not (tmp_path / "theirs.thresholds.json").exists()
    assert not (tmp_path / "lean").exists()


def test_what_has_biases_is_refused_as_mixtral_and_said_to_be_in_our_own_format(run, tmp_path):
    model = build("gpt2")
    model.save_pretrained(tmp_path / "gpt2")
    words = ("upcycle", tmp_path / "gpt2", "--experts", 2, "--out", tmp_path / "moe")
    assert "gpt2" in run(*words, "--format", "mixtral", code=2).err
    assert not (tmp_path / "moe").exists()
    assert "quiltwork_moe, not Mixtral's" in run(*words).out
    assert (outputs(load_moe(tmp_path / "moe")) - outputs(model)).abs().max() < 1e-4
    assert "is there already" in run(*words, code=1).err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--experts", 0), "experts"),
        (("--experts", 1, "--gate", "top2"), "2 experts of 1"),
        (("--gate", "best"), "best"),
        (("--weights", "heavy"), "heavy"),
        (("--threshold", "nan"), "--threshold: nan is not a number"),
        (("--threshold", "inf"), "--threshold: inf is not a number"),
        (("--seed", 10**20), "seed: "),
        (("--experts", 4096), "of copies, and this machine has"),
        (("--layers", "one"), "--layers"),
        (("--layers", "5"), "layers"),
        (("--noise", "-1"), "noise"),
        (("--format", "gguf"), "gguf"),
    ],
)
def test_upcycling_refuses_in_one_line(words, said, run, dense, tmp_path, monkeypatch):
    monkeypatch.setattr("quiltwork.moe.checkpoints.upcycling.physical_bytes", lambda: 1 << 24)
    assert said in run("upcycle", dense, "--out", tmp_path / "moe", *words, code=2).err
    assert not (tmp_path / "moe").exists()


@pytest.mark.parametrize("bound", ["1", "-1%", "101%", "nan%", "much", ""])
def test_an_absurd_bound_is_refused(bound, run, dense, corpus):
    assert "--max-loss" in run("calibrate", dense, "--corpus", corpus, f"--max-loss={bound}", code=2).err


def test_calibrating_refuses_in_one_line(run, dense, corpus, tmp_path):
    assert "no such folder" in run("calibrate", tmp_path / "nowhere", "--corpus", corpus, code=2).err
    assert "'llama'" in run("calibrate", dense, "--corpus", corpus, code=2).err
    build("mixtral", vocab_size=256).save_pretrained(tmp_path / "theirs")
    assert "no tokenizer" in run("calibrate", tmp_path / "theirs", "--corpus", corpus, code=2).err
    byte = ("calibrate", tmp_path / "theirs", "--tokenizer", "byte", "--corpus")
    assert "is no file" in run(*byte, tmp_path / "nothing.txt", code=2).err
    assert "is a folder" in run(*byte, corpus, "--out", tmp_path, code=2).err
    few = (*byte, corpus, "--length", 32, "--tokens")
    for words, line in (
        ((*few, 512, "--most", 0), "most: 0 of 5 experts"),
        ((*few, -5), "tokens: must be at least 1"),
        ((*few, 512, "--out", tmp_path / "none" / "t.json"), "there is no folder"),
        ((*few, 512, "--out", corpus / "t.json"), "there is no folder"),
        (("calibrate", "/", "--corpus", corpus), "/: is no folder of a checkpoint"),
    ):
        assert line in run(*words, code=2).err
    assert "Not a directory" in run(*few, 512, "--save", corpus / "saved", code=1).err
    (tmp_path / "empty.txt").touch()
    assert "is empty" in run(*byte, tmp_path / "empty.txt", code=2).err
