"""``quiltwork zoo equivalents`` and ``zoo adapt`` from the command line: figures, refusals and exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_kin import make_kin
from tiny_trained import story
from typer.testing import CliRunner

from quiltwork.cli.zoo import app
from quiltwork.core.errors import BadInputError, QuiltworkError

QUICK = ("--window", "24", "--tokens", "240")


@pytest.fixture(scope="module")
def kin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_kin(tmp_path_factory.mktemp("kin"))


@pytest.fixture
def folder(kin: Path, tmp_path: Path) -> Path:
    shutil.copytree(kin, tmp_path / "zoo")
    (tmp_path / "story.txt").write_text(story(60, seed=9))
    return tmp_path


@pytest.fixture
def run(folder: Path):
    def call(*words, code=0):
        words = [str(word) for word in words]
        result = CliRunner(env={"QUILTWORK_ZOO": str(folder / "zoo")}).invoke(app, words)
        if isinstance(result.exception, QuiltworkError):
            raise result.exception
        assert result.exit_code == code, result.output
        return json.loads(result.stdout) if "--json" in words else result.stdout

    return call


def test_candidates_with_and_without_what_they_cost(run, folder: Path):
    told = run("equivalents", "tuned", "--json")
    parts = {part["part"]: part for part in told["parts"]}
    assert parts["embed"]["shared_with"] == ["base", "far"]
    (ffn, *_) = parts["layers.1.ffn"]["candidates"]
    assert (ffn["model"], ffn["exact"]) == ("base", False)
    assert 0.99 < ffn["cosine"] < 1
    assert "alone" not in ffn
    measured = run("equivalents", "tuned", "--json", "--text", folder / "story.txt", *QUICK)
    alone = {p["part"]: p["candidates"][0]["alone"] for p in measured["parts"] if p["candidates"]}
    assert alone["layers.1.ffn"]["kl"] < alone["layers.2.attn"]["kl"]
    printed = run("equivalents", "tuned", "--text", folder / "story.txt", *QUICK)
    assert "worth measuring and no more" in printed
    assert "has it too: base" in printed


def test_blocks_of_another_size_are_compared(run, folder: Path):
    told = run("equivalents", "tuned", "--between", "small", "--text", folder / "story.txt", "--json", *QUICK)
    assert told["parts"][-1]["part"] == "head"
    assert "layers.2.ffn" in run("equivalents", "tuned", "--between", "small", "--text", folder / "story.txt", *QUICK)
    with pytest.raises(BadInputError, match="--text: is needed"):
        run("equivalents", "tuned", "--between", "small")


def test_adapting_prints_both_halves_and_registers(run, folder: Path):
    words = ("adapt", "tuned", "--budget", "0.01", "--agreement", "0.9", "--text", folder / "story.txt", *QUICK)
    told = run(*words, "--json")
    assert told["model"] == "tuned-adapted"
    assert told["deciding"]["delta_loss"] <= 0.01
    assert told["judging"]["tokens"] > 0
    assert {row["model"] for row in run("ls", "--json")} >= {"tuned", "tuned-adapted"}
    shown = run("show", "tuned-adapted", "--json")
    assert [one["part"] for one in shown["substitutions"]] == [one["part"] for one in told["substitutions"]]
    printed = run(*words, "--replace", "--name", "other")
    assert "on the half that did not, " in printed
    assert "registered other; tuned stays as it is" in printed
    assert "see substitutions.json" in run("export", "other", folder / "out")


def test_where_nothing_qualifies_it_exits_with_1_and_changes_nothing(run, folder: Path):
    before = run("ls", "--json")
    assert run("adapt", "far", "--json", code=1)["model"] is None
    text = ("--text", folder / "story.txt", *QUICK)
    told = run("adapt", "far", "--budget", "0.01", "--agreement", "0.999", *text, "--json", code=1)
    assert told["substitutions"] == []
    assert len(told["singles"]) > 0
    assert run("ls", "--json") == before


def test_what_is_wrong_is_named(run, folder: Path):
    before = run("ls", "--json")
    for words, message in (
        (("--budget", "-0.1"), "budget: -0.1 is not a number of nats from 0 up"),
        (("--budget", "nan"), "budget: nan is not"),
        (("--agreement", "1.5"), "agreement: 1.5 is not between 0 and 1"),
        (("--budget", "0.1"), "--text: is needed"),
        (("--text", folder / "none.txt"), r"none\.txt: cannot be read"),
    ):
        with pytest.raises(BadInputError, match=message) as raised:
            run("adapt", "tuned", *words)
        assert raised.value.exit_code == 2
    with pytest.raises(QuiltworkError, match="nobody: no such model") as raised:
        run("equivalents", "nobody")
    assert raised.value.exit_code == 2
    assert run("ls", "--json") == before
