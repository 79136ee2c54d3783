"""``quiltwork text`` as people type it, over a model without training."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from tiny_sentences import FAMILY, WIDTH, Outspoken, tiny_folder, tiny_zoo

from quiltwork.cli import main
from quiltwork.cli.text import COMMANDS
from quiltwork.core.names import ModelRef
from quiltwork.text import compare, models


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(models, "KINDS", {FAMILY: "tiny_sentences:TinyWords"})
    monkeypatch.setattr(compare, "Shipped", Outspoken)


@pytest.fixture
def model(tmp_path):
    return str(tiny_folder(tmp_path / "model", rows=4096))


@pytest.fixture
def run(capsys):
    """Run a command; what it exits with, prints and complains of."""

    def call(*words):
        with pytest.raises(SystemExit) as exited:
            main(["text", *map(str, words)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return exited.value.code or 0, out, err

    return call


def table(path, rows, delimiter=","):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_listed_with_help(run, name):
    code, out, _ = run("--help")
    assert code == 0
    assert f" {name} " in out


def test_two_sentences(run, model):
    code, out, err = run("similarity", "it works", "it works not", "--model", model, "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["polarity"]["kind"] == "opposite"
    assert told["rating"]["value"] == 4 * told["score"]
    code, out, _ = run("similarity", "it works", "it works", "--model", model)
    assert code == 0
    assert "1.0000" in out
    assert "0.00 to 4.00" in out


def test_a_model_of_a_zoo(run, tmp_path):
    zoo = tiny_zoo(tmp_path, ModelRef("words"))
    code, out, _ = run("embed", "one two", "xx", "--zoo", zoo, "--model", "words", "--json")
    told = json.loads(out)
    assert (code, told["model"], told["dimensions"], told["unknown"]) == (0, "model words", WIDTH, 1)
    assert told["vectors"][1] == [0.0] * WIDTH
    assert run("embed", "one", "--zoo", zoo, "--model", "nobody")[0] == 2
    assert run("embed", "one", "--zoo", zoo)[2].startswith("quiltwork: --model: ")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_columns_of_a_table_are_compared_and_written(run, model, tmp_path, suffix):
    pytest.importorskip("quiltwork.text.columns")
    rows = [["left", "id", "right"], ["a b", 1, "a b"], ["a, b", 2, 'a "not"'], ["xx", 3, "a"]]
    pairs = table(tmp_path / "pairs.csv", rows)
    out = tmp_path / f"out{suffix}"
    code, said, err = run("similarity", "left", "right", "--table", pairs, "--out", out, "--model", model)
    assert (code, err) == (0, "")
    assert said.startswith("3 pairs")
    if suffix == ".parquet":
        from pyarrow import parquet

        rows = parquet.read_table(out).to_pydict()
        assert rows["score"][2] is None
    else:
        with open(out, newline="", encoding="utf-8") as file:
            found = list(csv.DictReader(file, delimiter="," if suffix == ".csv" else "\t"))
        rows = {name: [row[name] for row in found] for name in found[0]}
        assert rows["score"][2] == ""
    assert rows["left"] == ["a b", "a, b", "xx"]
    assert float(rows["score"][0]) == 1.0
    assert rows["polarity"] == ["same", "opposite", "same"]


def test_vectors_of_a_column_are_written(run, model, tmp_path):
    pytest.importorskip("quiltwork.text.columns")
    rows = table(tmp_path / "s.tsv", [["text"], ["one"], ["two three"]], "\t")
    code, _, err = run("embed", "text", "--table", rows, "--out", tmp_path / "v.npy", "--model", model)
    assert (code, err) == (0, "")
    found = np.load(tmp_path / "v.npy")
    assert (found.shape, found.dtype) == ((2, WIDTH), np.float32)
    code, _, _ = run("embed", "text", "--table", rows, "--out", tmp_path / "v.csv", "--model", model)
    again = np.loadtxt(tmp_path / "v.csv", delimiter=",", skiprows=1, usecols=range(1, WIDTH + 1), dtype=np.float32)
    assert (again == found).all()


def test_an_index_is_built_and_searched(run, model, tmp_path):
    pytest.importorskip("quiltwork.text.columns")
    rows = table(tmp_path / "s.csv", [["text"], *([f"word{at} other{at}"] for at in range(30)), ["xx"]])
    index = tmp_path / "index"
    code, out, err = run("search", "build", index, "--from", rows, "--column", "text", "--model", model, "--json")
    assert (code, err) == (0, "")
    assert (json.loads(out)["sentences"], json.loads(out)["left_out"]) == (30, 1)
    code, out, _ = run("search", index, "word7 other7", "xx", "-k", 3, "--json")
    assert code == 0
    found, nothing = json.loads(out)
    assert found["hits"][0]["text"] == "word7 other7"
    assert (len(found["hits"]), nothing["hits"]) == (3, [])
    assert "word7 other7" in run("search", "query", index, "word7")[1]
    assert "is in use" in run("search", "build", index, "--from", rows, "--column", "text", "--model", model)[2]
    (index / "vectors.f16").write_bytes(b"")
    code, _, err = run("search", index, "word7")
    assert (code, err.count("\n")) == (1, 1)
    assert "vectors.f16" in err


WRONG = [
    (("similarity", "only one"), "two are needed"),
    (("similarity", "a", "b", "--out", "x.csv"), "is for --table"),
    (("similarity", "a", "b", "--table", "{}/none.csv"), "none.csv"),
    (("similarity", "a", "nocolumn", "--table", "{}/good.csv"), "nocolumn"),
    (("similarity", "a", "b", "--table", "{}/latin.csv"), "latin.csv"),
    (("similarity", "a", "b", "--table", "{}/good.xlsx"), "good.xlsx"),
    (("similarity", "a", "b", "--table", "{}/good.csv", "--out", "{}/out.xlsx"), "out.xlsx"),
    (("similarity", "a", "b", "--table", "{}/good.csv", "--out", "{}/no/out.csv"), "does not exist"),
    (("similarity", "a", "b", "--model", "{}/none"), "no such folder"),
    (("similarity", "a", "b", "--threads", "0"), "--threads"),
    (("embed",), "SENTENCES"),
    (("embed", "a", "b", "--table", "{}/good.csv"), "one column"),
    (("search", "{}/none", "query"), "there is no index here"),
    (("search", "build", "{}/i", "--from", "{}/good.csv"), "--column"),
    (("search", "opposites", "{}/none"), "there is no index here"),
]


@pytest.mark.parametrize(("words", "said"), WRONG)
def test_what_is_wrong_is_one_line_and_exit_2(run, tmp_path, words, said):
    pytest.importorskip("quiltwork.text.columns")
    pytest.importorskip("quiltwork.text.corpus")
    table(tmp_path / "good.csv", [["a", "b"], ["x", "y"]])
    (tmp_path / "good.xlsx").write_bytes(b"PK")
    (tmp_path / "latin.csv").write_bytes("a,b\nnaïve,y\n".encode("latin-1"))
    code, out, err = run(*(word.format(tmp_path) for word in words))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
