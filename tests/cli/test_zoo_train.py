"""``quiltwork zoo stitch`` and ``zoo prune`` from the command line: figures, refusals and exit codes."""

import json

import pytest
from tiny_trained import save_trained, story
from typer.testing import CliRunner

from quiltwork.cli.zoo import app
from quiltwork.core.errors import BadInputError, QuiltworkError
from quiltwork.zoo import Zoo

QUICK = ("--window", "24", "--batch", "16")


@pytest.fixture
def folder(tmp_path):
    """A zoo with ``small`` and ``large``, trained for a moment, and a text."""
    with Zoo(tmp_path / "zoo") as zoo:
        for kind, steps in (("small", 60), ("large", 80)):
            zoo.add(save_trained(kind, tmp_path / kind, steps=steps))
    (tmp_path / "story.txt").write_text(story())
    return tmp_path


@pytest.fixture
def run(folder):
    def call(*words, code=0):
        words = [str(word) for word in words]
        result = CliRunner(env={"QUILTWORK_ZOO": str(folder / "zoo")}).invoke(app, words)
        if isinstance(result.exception, QuiltworkError):
            raise result.exception
        assert result.exit_code == code, result.output
        return json.loads(result.stdout) if "--json" in words else result.stdout

    return call


@pytest.mark.slow
def test_stitching_prints_every_loss_and_registers_the_best(run, folder):
    text = ("--text", folder / "story.txt", *QUICK, "--steps", 10)
    report = run("stitch", "small", "large", "--at", "all", "--name", "both", "--json", *text)
    assert report["model"] == "both"
    assert set(report["parents"]) == {"small", "large"}
    assert [(c["layers_below"], c["first_layer_above"]) for c in report["cuts"]] == [(1, 1), (2, 3)]
    assert sum(cut["registered"] for cut in report["cuts"]) == 1
    shown = run("show", "both", "--json")
    registered = next(cut for cut in report["cuts"] if cut["registered"])
    assert shown["measured"]["loss"] == registered["test"]["loss"]
    printed = run("stitch", "small", "large", "--at", "1", "--name", "again", "--lora", 2, *text)
    assert "1:1" in printed
    assert "registered again" in printed


def test_a_worse_stitch_exits_with_1_and_changes_nothing(run, folder):
    words = ("stitch", "large", "small", "--at", "2", "--text", folder / "story.txt", *QUICK, "--steps", "1")
    before = run("ls", "--json")
    report = run(*words, "--json", code=1)
    assert report["model"] is None
    assert not report["cuts"][0]["qualifies"]
    assert run("ls", "--json") == before


@pytest.mark.slow
def test_pruning_prints_what_the_draft_is_worth(run, folder):
    report = run(
        "prune", "large", "--keep-layers", "0,3", "--text", folder / "story.txt", "--steps", 10, "--json", *QUICK
    )
    assert report["model"] == "large-keep-0-3"
    assert report["base"] == "large"
    assert 0 < report["cost"] < 1
    assert 0 < report["test"]["agreement"] < 1
    printed = run("prune", "large", "--ffn", "0.5", "--text", folder / "story.txt", "--steps", 2, *QUICK)
    assert "large-ffn-0.5" in printed
    assert {row["model"]: row["base"] for row in run("ls", "--json")}["large-ffn-0.5"] == "large"


def test_what_is_wrong_is_named(run, folder):
    story = ("--text", folder / "story.txt")
    with pytest.raises(BadInputError, match="--keep-layers: '0,x' is not a list of layers"):
        run("prune", "large", "--keep-layers", "0,x", *story)
    with pytest.raises(BadInputError, match="leaves nothing out"):
        run("prune", "large", *story)
    with pytest.raises(BadInputError, match=r"none\.txt: cannot be read"):
        run("prune", "large", "--ffn", "0.5", "--text", folder / "none.txt")
    (folder / "latin.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(BadInputError, match="is not UTF-8"):
        run("stitch", "small", "large", "--at", "1", "--text", folder / "latin.txt")
    with pytest.raises(BadInputError, match="is not a cut"):
        run("stitch", "small", "large", "--at", "one", *story)
