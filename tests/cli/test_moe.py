"""``quiltwork moe evaluate`` and ``report``: tables, JSON, files; what is wrong is one line."""

import json
from pathlib import Path

import pytest
import typer
from moe_runs import begun, corpus
from typer.testing import CliRunner

from quiltwork.cli.moe_evaluate import evaluate
from quiltwork.cli.moe_report import report
from quiltwork.core.errors import QuiltworkError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    training = begun(folder, steps=12, target_experts=1.4)
    while not training.step().finished:
        pass
    return folder / "out"


def call(command, *words):
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, QuiltworkError):
        return result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_evaluate_prints_a_row_for_each_way_and_the_same_as_json(model: Path) -> None:
    shown = call(evaluate, model, "--experts", "top1", "--experts", "k=1.3")
    assert [line.split()[0] for line in shown.splitlines()] == ["experts", "top1", "k=1.3"]
    document = json.loads(call(evaluate, model, "--json"))
    assert [mode["mode"] for mode in document["modes"]] == ["trained", "top1", "top2"]
    trained, top1, top2 = document["modes"]
    assert (top1["experts_per_token"], top2["experts_per_token"]) == (1, 2)
    assert {"loss", "bits_per_byte"} <= set(trained["scores"])
    assert top1["flops_per_token"] < trained["flops_per_token"] < top2["flops_per_token"]


def test_report_writes_the_page_the_tables_and_json(model: Path, tmp_path: Path) -> None:
    document = json.loads(
        call(report, model, "--out", tmp_path / "r.html", "--csv", tmp_path / "csv", "--tokens", 300, "--json")
    )
    assert document["tokens"] == 300
    assert len(document["layers"]) == 2
    assert {path.name for path in (tmp_path / "csv").iterdir()} == {
        "layers.csv", "load.csv", "tokens.csv", "training.csv", "words.csv"
    }  # fmt: skip
    assert (tmp_path / "r.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    shown = call(report, model, "--out", tmp_path / "r.html", "--tokens", 300)
    assert f"written to {tmp_path / 'r.html'}" in shown.replace("\n", "")


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        (report, (), "nothing is asked for"),
        (report, ("--json", "--text", "none.txt"), "none.txt"),
        (report, ("--json", "--device", "toaster"), "'toaster' is not a device"),
        (evaluate, ("--experts", "three"), "'three' is no way to take experts"),
        (evaluate, ("--part", "train"), "--part: 'train' is neither valid nor test"),
    ],
)
def test_what_is_wrong_is_one_line(model: Path, command, words: tuple[str, ...], said: str) -> None:
    told = str(call(command, model, *words))
    assert said in told
    assert "\n" not in told


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    for command, words in ((report, ("--json",)), (evaluate, ())):
        assert "there is no such folder" in str(call(command, tmp_path / "none", *words))


@pytest.mark.parametrize(("command", "words"), [(report, ("--json",)), (evaluate, ())])
def test_from_another_folder_it_says_where_the_corpus_is_looked_for(
    tmp_path: Path, monkeypatch, command, words
) -> None:
    corpus(tmp_path)
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    training = begun(tmp_path, steps=1, corpus="../corpus.txt")
    training.step()
    assert "run this in the folder that it was trained in" not in str(call(command, tmp_path / "out", *words))
    monkeypatch.chdir("/")
    assert "../corpus.txt: is no file (what it was trained on is read again" in str(
        call(command, tmp_path / "out", *words)
    )
