"""Who is a candidate for a part, and who never is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tiny_checkpoints import adapted, build

from quiltwork.core.names import ModelRef
from quiltwork.zoo import Zoo
from quiltwork.zoo.equivalence import find_candidates
from quiltwork.zoo.equivalence.sketch import project, sketch_cosine

Saved = Callable[..., Path]
UP, KEY = "model.layers.1.mlp.up_proj.weight", "model.layers.0.self_attn.k_proj.weight"


def changed(source: Path, target: Path, name: str, amount: float) -> Path:
    """A copy of a model with noise in one tensor, in relation to its size."""
    shutil.copytree(source, target)
    tensors = load_file(source / "model.safetensors")
    noise = np.random.default_rng(3).standard_normal(tensors[name].shape).astype(np.float32)
    tensors[name] = tensors[name] + np.float32(amount * tensors[name].std()) * noise
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def candidates(zoo: Zoo, name: str, tenant: str = "public", **options):
    return {found.part.name: found for found in find_candidates(zoo, zoo.model(name), tenant=tenant, **options)}


def test_a_changed_block_finds_its_base_and_an_unchanged_one_is_shared(zoo: Zoo, saved: Saved, tmp_path: Path):
    zoo.add(saved("llama"), name="base")
    zoo.add(changed(saved("llama"), tmp_path / "n", UP, 0.05), name="near")
    zoo.add(saved("qwen3"), name="stranger")
    found = candidates(zoo, "near")
    assert found["embed"].shared_with == (ModelRef("base"),)
    assert found["embed"].swaps == ()
    (swap,) = found["layers.1.ffn"].swaps
    assert (swap.source, swap.exact) == (ModelRef("base"), False)
    assert 0.99 < swap.cosine < 1
    up = next(t for t in zoo.model("near").parts[4].block.tensors if t.name == "up_proj.weight")
    assert swap.saved_bytes == up.nbytes, "the block's other tensors are the base's own"


def test_a_block_that_is_far_off_is_none(zoo: Zoo, saved: Saved, tmp_path: Path):
    zoo.add(saved("llama"), name="base")
    zoo.add(saved("llama", 1), name="other")
    zoo.add(changed(saved("llama"), tmp_path / "f", KEY, 3.0), name="far")
    assert all(not found.swaps for found in candidates(zoo, "other").values())
    assert [s.source for s in candidates(zoo, "far")["layers.0.attn"].swaps] == [ModelRef("base")]
    assert candidates(zoo, "far", least=0.99)["layers.0.attn"].swaps == ()


def test_equal_values_in_another_dtype_are_exact(zoo: Zoo, saved: Saved, tmp_path: Path):
    import torch
    from transformers import AutoModelForCausalLM

    half = build("llama").to(torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype=torch.float32).save_pretrained(tmp_path / "wide")
    zoo.add(tmp_path / "half", name="half")
    zoo.add(tmp_path / "wide", name="wide")
    for found in candidates(zoo, "wide").values():
        (swap,) = found.swaps
        assert (swap.exact, swap.cosine, swap.saved_bytes) == (True, 1.0, 0)
        assert swap.original.block.id != swap.replacement.block.id


def test_an_adapter_may_be_served_without_its_factors(zoo: Zoo, saved: Saved, tmp_path: Path):
    from peft import LoraConfig

    zoo.add(saved("llama"), name="base")
    adapted(build("llama"), LoraConfig(r=2, target_modules=["q_proj"]), tmp_path / "l")
    model = zoo.add(tmp_path / "l", name="lora", base="base").model
    (swap,) = candidates(zoo, "lora")["layers.0.attn"].swaps
    assert swap.replacement.attachments == ()
    part = next(part for part in model.parts if part.name == "layers.0.attn")
    assert swap.saved_bytes == sum(block.nbytes for block in part.attachments)


def test_a_block_that_others_keep_anyway_saves_only_what_hangs_on_it(zoo: Zoo, saved: Saved, tmp_path: Path):
    from peft import LoraConfig

    zoo.add(saved("llama"), name="base")
    zoo.add(changed(saved("llama"), tmp_path / "n", KEY, 0.05), name="a-tuned-one")
    adapted(build("llama"), LoraConfig(r=2, target_modules=["q_proj"]), tmp_path / "l")
    model = zoo.add(tmp_path / "l", name="lora", base="base").model
    part = next(part for part in model.parts if part.name == "layers.0.attn")
    swaps = candidates(zoo, "lora")["layers.0.attn"].swaps
    assert {swap.source.name for swap in swaps} == {"base", "a-tuned-one"}
    assert {swap.saved_bytes for swap in swaps} == {sum(block.nbytes for block in part.attachments)}
    assert candidates(zoo, "a-tuned-one")["layers.0.attn"].swaps[0].source.name == "base"


def test_nothing_is_drawn_from_another_tenant(zoo: Zoo, saved: Saved, tmp_path: Path):
    zoo.add(saved("llama"), name="base", tenant="alice")
    zoo.add(changed(saved("llama"), tmp_path / "n", UP, 0.05), name="near")
    assert all(not (f.swaps or f.shared_with) for f in candidates(zoo, "near").values())
    assert candidates(zoo, "near", "alice")["layers.1.ffn"].swaps


@given(st.integers(0, 100), st.floats(0.0, 1.0), st.integers(1, 9000))
@settings(max_examples=40, deadline=None)
def test_sketches_estimate_the_cosine(seed: int, amount: float, size: int):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(size).astype(np.float32)
    b = (a + amount * rng.standard_normal(size)).astype(np.float32)
    true = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
    told = sketch_cosine(project(a, seed, "w"), project(b, seed, "w"))
    assert told == pytest.approx(true, abs=7 * max(1 - true**2, 1e-6) / 8 + 1e-6)
    assert np.array_equal(project(a, seed, "w"), project(a, seed, "w"))
    assert not np.array_equal(project(a, seed, "w"), project(a, seed + 1, "w"))
