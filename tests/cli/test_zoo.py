"""``quiltwork zoo``: every command prints what the Python call gives, and JSON where asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from tiny_checkpoints import adapted, build
from typer.testing import CliRunner

from quiltwork.cli.explained import explained_model
from quiltwork.cli.zoo import app
from quiltwork.core.errors import BadInputError, ConflictError, NotFoundError, QuiltworkError
from quiltwork.zoo import Zoo


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a stranger and an adapter on the model."""
    from peft import LoraConfig

    folder = tmp_path_factory.mktemp("models")
    build("llama").save_pretrained(folder / "base")
    build("llama", seed=1).save_pretrained(folder / "stranger")
    adapted(build("llama"), LoraConfig(r=2, target_modules=["q_proj"]), folder / "lora")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Run a command on a zoo of its own; gives its output (parsed where it is JSON) or raises its error."""

    def call(*words: object, code: int = 0) -> Any:
        result = CliRunner(env={"QUILTWORK_ZOO": str(tmp_path / "zoo")}).invoke(app, [str(w) for w in words])
        if isinstance(result.exception, QuiltworkError):
            raise result.exception
        assert result.exit_code == code, result.output
        return json.loads(result.stdout) if "--json" in words else result.stdout

    return call


def test_a_life_of_a_zoo(run: Any, models: Path, tmp_path: Path) -> None:
    (base, lora) = (
        run("add", models / "base", "--alias", "b", "--json")[0],
        run("add", models / "lora", "--base", "base", "--json")[0],
    )
    assert (base["model"], base["family"], base["already"]) == ("base", "llama", False)
    assert lora["new_bytes"] < base["new_bytes"] / 5
    assert run("add", models / "base", "--json")[0]["already"]
    assert {row["model"]: row["base"] for row in run("ls", "--json")} == {"base": None, "lora": "base"}
    assert run("ls", "--json")[0]["aliases"] == ["b"]
    assert [part["name"] for part in run("show", "lora", "--json")["parts"]][:2] == ["embed", "layers.0.attn"]
    assert [c["part"] for c in run("diff", "b", "lora", "--json")["changes"] if not c["same"]] == [
        "layers.0.attn", "layers.1.attn",
    ]  # fmt: skip
    usage = run("du", "--json")
    with Zoo(tmp_path / "zoo") as zoo:
        assert usage["models"][0]["own_bytes"] == zoo.du().models[0].own_bytes
    assert run("export", "lora", tmp_path / "out", "--json")["exact"]
    assert run("export", "lora", tmp_path / "merged", "--merged", "--json")["exact"] is False
    assert run("fsck", "--json") == []
    assert run("rm", "lora", "--json") == {"removed": ["lora"]}
    assert run("gc", "--json")["objects"] > 0
    assert [row["model"] for row in run("ls", "--json")] == ["base"]


def test_tables_name_what_they_show(run: Any, models: Path, tmp_path: Path) -> None:
    assert "base" in run("add", models / "base")
    run("add", models / "stranger", "--tenant", "alice")
    assert "alice::stranger" in run("ls")
    assert "alice" not in run("ls", "--tenant", "bob")
    assert "layers.1.ffn" in run("show", "alice::stranger")
    assert "same" in run("diff", "base", "base")
    assert "stored for" in run("du")
    assert "byte for byte" in run("export", "base", tmp_path / "out")
    assert "all is well" in run("fsck")
    assert "removed base" in run("rm", "base")
    assert "freed" in run("gc")


def test_explain_tells_what_the_call_does(run: Any, models: Path, tmp_path: Path) -> None:
    run("add", models / "base")
    run("add", models / "lora", "--base", "base")
    run("add", models / "stranger", "--tenant", "alice")
    told = run("explain", "lora", "--json")
    with Zoo(tmp_path / "zoo") as zoo:
        assert told == zoo.explain("lora").to_json()
    assert told["parts"][1]["shared_with"] == {"models": ["base"], "hidden": 0}
    assert [a["kind"] for a in told["parts"][1]["attachments"]] == ["lora"]
    assert [s["first"] for s in told["segments"]] == ["embed", "layers.0.attn"]
    assert [s["first"] for s in run("explain", "lora", "--among", "lora", "--json")["segments"]] == ["embed"]
    text = run("explain", "lora")
    for word in ("lora (llama, made from base)", "removing it would free", "layers.1.ffn", "embed", "no other"):
        assert word in text
    assert "alice" not in run("explain", "base", "--tenant", "bob", "--no-near")


def test_explain_shows_what_was_substituted_and_what_it_costs(run: Any, models: Path, tmp_path: Path) -> None:
    run("add", models / "base")
    with Zoo(tmp_path / "zoo") as zoo:
        told = zoo.explain("base")
    swap = {"part": "layers.1.ffn", "source": None, "delta_loss": 0.002, "total_delta_loss": 0.003, "budget": 0.01}
    *_, table = explained_model(replace(told, substitutions=(swap,), near=()))
    assert isinstance(table, Table)
    cells = [list(column.cells) for column in table.columns]
    assert cells == [["layers.1.ffn"], ["another model"], ["0.0020"], ["0.0030"], ["0.0100"]]


def test_damage_is_found_and_fails(run: Any, models: Path, tmp_path: Path) -> None:
    run("add", models / "base")
    with Zoo(tmp_path / "zoo") as zoo:
        content = zoo.model("base").parts[0].block.tensors[0].content
    path = tmp_path / "zoo" / "objects" / content[:2] / content[2:]
    path.write_bytes(bytes(path.stat().st_size))
    assert content in run("fsck", "--json", code=1)[0]["where"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["add", "{models}/base", "{models}/stranger", "--name", "x"], BadInputError),
        (["add", "{models}/base", "--lossy", "int3"], BadInputError),
        (["add", "{models}/base", "--base", "nobody"], NotFoundError),
        (["add", "{models}/nothing"], NotFoundError),
        (["add", "{models}/stranger", "--name", "taken"], ConflictError),
        (["show", "nobody"], NotFoundError),
        (["show", "../taken"], BadInputError),
        (["explain", "nobody"], NotFoundError),
        (["explain", "taken", "--among", "nobody"], NotFoundError),
        (["explain", "taken", "--among", "../taken"], BadInputError),
        (["explain", "alice::taken", "--tenant", "bob"], NotFoundError),
        (["rm", "nobody"], NotFoundError),
        (["export", "taken", "{models}"], ConflictError),
        (["export", "taken", "{out}", "--format", "zip"], BadInputError),
    ],
)
def test_mistakes_are_one_line(run: Any, models: Path, tmp_path: Path, words: list[str], error: type) -> None:
    run("add", models / "base", "--name", "taken")
    with pytest.raises(error) as caught:
        run(*(word.format(models=models, out=tmp_path / "out") for word in words))
    assert "\n" not in str(caught.value)


def test_models_are_removed_all_or_none(run: Any, models: Path) -> None:
    run("add", models / "base", "--alias", "b")
    run("add", models / "stranger")
    with pytest.raises(NotFoundError, match="nobody"):
        run("rm", "base", "stranger", "nobody")
    assert [row["model"] for row in run("ls", "--json")] == ["base", "stranger"]
    assert run("rm", "base", "b", "stranger", "base", "--json") == {"removed": ["base", "b", "stranger"]}
    assert run("ls", "--json") == []


def test_reading_makes_no_zoo(run: Any, tmp_path: Path) -> None:
    for words in (["ls"], ["du"], ["fsck"], ["gc"], ["show", "x"], ["explain", "x"], ["export", "x", tmp_path / "out"]):
        with pytest.raises(NotFoundError, match="no zoo"):
            run(*words)
    assert not (tmp_path / "zoo").exists()
