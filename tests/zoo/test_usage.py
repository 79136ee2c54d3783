"""What `diff` and `du` say is so, measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tiny_checkpoints import adapted, build

from quiltwork.core.errors import CorruptionError, NotFoundError
from quiltwork.core.names import ModelRef
from quiltwork.zoo import Zoo
from quiltwork.zoo.recipe import FileRecipe, Recipe, Residue, TensorPiece, dump, load

Saved = Callable[..., Path]


def scaled(source: Path, target: Path, name: str, factor: float) -> Path:
    target.mkdir()
    tensors = load_file(source / "model.safetensors")
    tensors[name] = tensors[name] * np.float32(factor)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_bytes((source / "config.json").read_bytes())
    return target


def test_diff_measures_the_change(zoo: Zoo, saved: Saved, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    zoo.add(saved("llama"), name="a")
    zoo.add(scaled(saved("llama"), tmp_path / "b", name, 1.25))
    found = zoo.diff("a", "b")
    (change,) = [c for c in found.changes if not c.same]
    assert (change.part, change.kind, change.changed) == ("layers.1.ffn", "ffn", 1)
    assert change.relative == pytest.approx(0.25)
    assert found.changed_bytes == change.changed_bytes == 48 * 32 * 4
    assert found.nbytes == sum(t.nbytes for part in zoo.model("a").parts for t in part.block.tensors)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_model_does_not_differ_from_itself(zoo: Zoo, saved: Saved, kind: str) -> None:
    zoo.add(saved(kind), name="a")
    assert all(change.same for change in zoo.diff("a", "a").changes)


def test_diff_names_attachments_and_unlike_models(zoo: Zoo, saved: Saved, tmp_path: Path) -> None:
    from peft import LoraConfig

    zoo.add(saved("llama"), name="base")
    adapted(build("llama"), LoraConfig(r=2, target_modules=["q_proj"]), tmp_path / "lora")
    zoo.add(tmp_path / "lora", base="base")
    found = zoo.diff("base", "lora")
    assert {c.part: c.attachments for c in found.changes if not c.same} == {
        "layers.0.attn": ("+lora",),
        "layers.1.attn": ("+lora",),
    }
    assert found.changed_bytes == 0
    zoo.add(saved("gpt2"), name="other")
    assert all(c.relative is None or c.relative >= 0 for c in zoo.diff("base", "other").changes)
    with pytest.raises(NotFoundError):
        zoo.diff("base", "nobody")


def test_du_adds_up_and_tells_what_removal_frees(zoo: Zoo, saved: Saved, tmp_path: Path) -> None:
    zoo.add(saved("llama"), name="a")
    zoo.add(scaled(saved("llama"), tmp_path / "b", "lm_head.weight", 1.5))
    zoo.add(saved("qwen3"), name="alone")
    usage = zoo.du()
    by_name = {model.ref.name: model for model in usage.models}
    assert usage.unused_bytes == 0
    for name, folder in (("a", saved("llama")), ("alone", saved("qwen3"))):
        assert by_name[name].source_bytes == sum(f.stat().st_size for f in folder.iterdir())
    assert by_name["a"].shares_with == {ModelRef("b"): by_name["a"].shared_bytes}
    assert by_name["alone"].own_bytes == sum(zoo.objects()[c].stored for c in zoo.needs("alone"))
    zoo.remove("alone")
    assert zoo.du().unused_bytes == by_name["alone"].own_bytes
    assert zoo.gc().bytes == by_name["alone"].own_bytes
    zoo.remove("b")
    assert zoo.gc().bytes == by_name["b"].own_bytes


def test_an_empty_zoo_has_no_ratio(zoo: Zoo) -> None:
    assert zoo.du().ratio is None
    assert zoo.du().models == ()


pieces = st.binary(max_size=20).map(Residue) | st.builds(
    TensorPiece,
    st.sampled_from(["ab" * 32, "cd" * 32]),
    st.just("BF16"),
    st.just("F32"),
    st.integers(0, 2**40),
)
recipes = st.builds(
    Recipe,
    st.sampled_from(["directory", "file"]),
    st.lists(
        st.builds(FileRecipe, st.just("a/b"), pieces=st.lists(pieces, max_size=4).map(tuple))
        | st.builds(FileRecipe, st.just("c"), content=st.just("ef" * 32))
        | st.builds(FileRecipe, st.just("d"), link=st.just("c")),
        max_size=4,
    ).map(tuple),
)


@settings(deadline=None)
@given(recipe=recipes)
def test_recipes_are_read_as_they_were_written(recipe: Recipe) -> None:
    assert load(dump(recipe), where="here") == recipe


@settings(deadline=None)
@given(recipe=recipes, data=st.data())
def test_a_damaged_recipe_is_read_or_refused(recipe: Recipe, data: st.DataObject) -> None:
    content = bytearray(dump(recipe))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = load(bytes(content), where="here")
    except CorruptionError:
        return
    assert not any(".." in file.path.split("/") or file.path.startswith("/") for file in read.files)


@pytest.mark.parametrize("path", ["../up", "/etc/passwd", "a/../../b", ""])
def test_a_recipe_does_not_leave_its_folder(path: str) -> None:
    with pytest.raises(CorruptionError):
        load(dump(Recipe("directory", (FileRecipe(path, content="ab" * 32),))), where="here")
