"""What is told of a model is so, and tells nobody more than they may know."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_checkpoints import adapted, build

from quiltwork.core.errors import NotFoundError, UnsupportedError
from quiltwork.core.names import ModelRef
from quiltwork.zoo import Zoo
from quiltwork.zoo.explain import Others
from quiltwork.zoo.near import CANDIDATE
from quiltwork.zoo.segments import segment_id

Saved = Callable[..., Path]
OWN, SHARED = Others(), Others((ModelRef("base"),))


def changed(source: Path, target: Path, name: str, amount: float) -> Path:
    """A copy of a model with noise in one tensor, in relation to its size."""
    shutil.copytree(source, target)
    tensors = load_file(source / "model.safetensors")
    noise = np.random.default_rng(3).standard_normal(tensors[name].shape).astype(np.float32)
    tensors[name] = tensors[name] + np.float32(amount * tensors[name].std()) * noise
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.fixture
def filled(zoo: Zoo, saved: Saved, tmp_path: Path) -> Zoo:
    """A base, a near and a far fine-tune of it, an adapter, a stranger, and a secret of alice's."""
    from peft import LoraConfig

    base = saved("llama")
    up = "model.layers.1.mlp.up_proj.weight"
    zoo.add(base, name="base")
    zoo.add(changed(base, tmp_path / "n", up, 0.05), name="near")
    zoo.add(changed(base, tmp_path / "f", up, 2.0), name="far")
    adapted(build("llama"), LoraConfig(r=2, target_modules=["q_proj"]), tmp_path / "l")
    zoo.add(tmp_path / "l", name="lora", base="base")
    zoo.add(saved("qwen3"), name="stranger")
    zoo.add(changed(base, tmp_path / "s", "lm_head.weight", 0.05), name="secret", tenant="alice")
    return zoo


def test_every_part_tells_who_has_the_very_same(filled: Zoo) -> None:
    told = filled.explain("near")
    parts = {part.name: part for part in told.parts}
    assert list(parts) == [part.name for part in filled.model("near").parts]
    others = (ModelRef("base"), ModelRef("far"), ModelRef("lora"), ModelRef("secret", "alice"))
    assert set(parts["embed"].block.others.named) == set(others)
    assert set(parts["head"].block.others.named) == {*others} - {ModelRef("secret", "alice")}
    assert parts["layers.1.ffn"].block.others == OWN
    assert told.own_bytes == parts["layers.1.ffn"].block.nbytes
    assert told.nbytes == sum(part.block.nbytes for part in told.parts)
    assert [p.name for p in filled.explain("lora").parts if p.attachments] == ["layers.0.attn", "layers.1.attn"]


def test_what_only_it_needs_is_what_removing_it_frees(filled: Zoo) -> None:
    for name in ("near", "stranger", "lora"):
        own = filled.explain(name, near=False).stored_own_bytes
        before = filled.du().unused_bytes
        filled.remove(name)
        assert filled.du().unused_bytes - before == own
        filled.gc()


def test_the_cuts_are_those_among_the_models_that_are_given(filled: Zoo) -> None:
    def cut(name: str, *among: str) -> list[tuple[str, str, list[str]]]:
        told = filled.explain(name, among=among, near=False)
        return [(s.first, s.last, [str(ref) for ref in s.others.named]) for s in told.segments]

    assert cut("near") == cut("near", "near", "stranger") == [("embed", "head", [])]
    assert cut("near", "base") == [
        ("embed", "layers.1.attn", ["base"]), ("layers.1.ffn", "layers.1.ffn", []), ("head", "head", ["base"]),
    ]  # fmt: skip
    told = filled.explain("near", among=["base"], near=False)
    links = filled.chain("near").links
    assert told.segments[0].id == segment_id(part.block.id for part in links[: told.segments[0].blocks])
    assert sum(segment.blocks for segment in told.segments) == len(links)
    assert [s.id for s in filled.explain("base", among=["near"], near=False).segments][::2] == [
        told.segments[0].id, told.segments[2].id,
    ]  # fmt: skip


def test_near_duplicates_are_found_only_where_weights_nearly_agree(filled: Zoo) -> None:
    (near,) = filled.explain("near").near or ()
    assert (near.part, near.model) == ("layers.1.ffn", ModelRef("base"))
    assert CANDIDATE <= near.cosine < 1
    assert near.nbytes == filled.explain("near").own_bytes
    assert near.other_block == {p.name: p.block.id for p in filled.model("base").parts}["layers.1.ffn"]
    for name in ("far", "stranger", "lora", "base"):
        assert filled.explain(name).near == ()
    assert filled.explain("near", near=False).near is None


def test_progress_is_told_of_what_is_read(filled: Zoo) -> None:
    read: list[int] = []
    filled.explain("near", progress=read.append)
    assert sum(read) >= filled.explain("near").own_bytes
    read.clear()
    filled.explain("near", near=False, progress=read.append)
    assert read == []


def test_a_tenant_learns_that_others_share_and_never_who(filled: Zoo) -> None:
    everything = filled.explain("near").parts[0].block.others
    assert ModelRef("secret", "alice") in everything.named
    for tenant in ("public", "bob"):
        told = filled.explain("near", tenant=tenant)
        assert told.parts[0].block.others.hidden == 1
        assert len(told.parts[0].block.others.named) == len(everything.named) - 1
        text = json.dumps(told.to_json())
        assert "secret" not in text
        assert "alice" not in text
        for ref in (ModelRef("secret", "alice"), ModelRef("nobody", "alice")):
            with pytest.raises(NotFoundError, match="no such model"):
                filled.explain(ref, tenant=tenant)
            with pytest.raises(NotFoundError, match="no such model"):
                filled.explain("near", among=[ref], tenant=tenant)
    hers = filled.explain(ModelRef("secret", "alice"), tenant="alice")
    assert ModelRef("near") in hers.parts[0].block.others.named
    assert [near.part for near in hers.near or ()] == ["head"]
    assert filled.explain("base", tenant="bob").near == ()


def test_hidden_models_do_not_move_the_cuts(filled: Zoo) -> None:
    """Else a tenant could learn from a cut where another's fine-tune begins."""
    assert len(filled.explain("near", near=False).segments) > 2
    filled.remove("base")
    filled.remove("far")
    filled.remove("lora")
    assert len(filled.explain("near", tenant="bob", near=False).segments) == 1


def test_a_model_of_a_family_without_blocks_has_parts_and_no_cuts(filled: Zoo, saved: Saved, tmp_path: Path) -> None:
    shutil.copytree(saved("llama"), tmp_path / "odd")
    config = json.loads((tmp_path / "odd" / "config.json").read_text()) | {"model_type": "odd"}
    (tmp_path / "odd" / "config.json").write_text(json.dumps(config))
    filled.add(tmp_path / "odd", name="odd")
    told = filled.explain("odd")
    assert told.segments == ()
    assert told.parts
    with pytest.raises(UnsupportedError, match="odd"):
        filled.explain("base", among=["odd"])


def test_an_alias_is_the_model(filled: Zoo) -> None:
    filled.alias(ModelRef("other"), "near")
    assert filled.explain("other", near=False).ref == ModelRef("near")


def test_a_model_that_is_not_there_is_one_clear_error(filled: Zoo) -> None:
    with pytest.raises(NotFoundError, match="no such model"):
        filled.explain("nobody")
