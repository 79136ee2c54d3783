"""The fleet is what its description says, folder by folder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from work.fleet import BODY_30M, RELATIVE_CHANGE, SMALL_BODY, Fleet, Shape, Weights, merged, relative_change

from work.fleet import sixteen_apps, sixteen_loras, top_variants  # isort: skip


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return sixteen_apps(tmp_path_factory.mktemp("fleet"), seed=3, shape=SMALL_BODY)


def weights(fleet: Fleet, name: str) -> dict[str, Weights]:
    path = fleet.app(name).path
    loaded: dict[str, Weights] = load_file(path / "model.safetensors")
    return loaded


def changed(fleet: Fleet, name: str) -> dict[str, float]:
    """Tensors of an application that are not the base's, with their relative change."""
    base, own = weights(fleet, "base"), weights(fleet, name)
    return {key: relative_change(base[key], own[key]) for key in base if not np.array_equal(base[key], own[key])}


def test_sixteen_applications_of_five_kinds(fleet: Fleet) -> None:
    assert Counter(app.kind for app in fleet.apps) == {"base": 1, "lora": 8, "top": 3, "head": 2, "full": 2}
    assert fleet.base.name == "base"


def test_a_full_fine_tune_moves_every_tensor_by_six_percent(fleet: Fleet) -> None:
    moved = changed(fleet, "full-0")
    assert moved.keys() == weights(fleet, "base").keys()
    assert list(moved.values()) == pytest.approx([RELATIVE_CHANGE] * len(moved), rel=1e-3)


def test_a_top_variant_moves_only_the_last_two_layers(fleet: Fleet) -> None:
    last = {f"model.layers.{i}." for i in (SMALL_BODY.layers - 2, SMALL_BODY.layers - 1)}
    assert {key[: key.index(".", 13) + 1] for key in changed(fleet, "top2-1")} == last


def test_a_head_variant_moves_only_the_head(fleet: Fleet) -> None:
    assert list(changed(fleet, "head-1")) == ["lm_head.weight"]


def test_fine_tunes_of_a_kind_differ_from_each_other(fleet: Fleet) -> None:
    assert not np.array_equal(weights(fleet, "head-0")["lm_head.weight"], weights(fleet, "head-1")["lm_head.weight"])


@pytest.mark.parametrize(("name", "rank"), [("lora-0", 8), ("lora-1", 16)])
def test_adapters_touch_q_k_v_o_of_every_layer_and_do_something(fleet: Fleet, name: str, rank: int) -> None:
    adapter = load_file(fleet.app(name).path / "adapter_model.safetensors")
    assert len(adapter) == 2 * 4 * SMALL_BODY.layers
    assert all(tensor.shape[0 if "lora_A" in key else 1] == rank for key, tensor in adapter.items())
    assert all(tensor.dtype == np.float32 and np.abs(tensor).min() > 0 for tensor in adapter.values())


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first = sixteen_loras(tmp_path / "a", seed=1, shape=SMALL_BODY, count=1)
    again = sixteen_loras(tmp_path / "b", seed=1, shape=SMALL_BODY, count=1)
    other = sixteen_loras(tmp_path / "c", seed=2, shape=SMALL_BODY, count=1)

    def content(fleet: Fleet) -> bytes:
        return (fleet.base.path / "model.safetensors").read_bytes()

    assert content(first) == content(again)
    assert content(first) != content(other)


def test_top_variants_come_in_fours_for_each_depth(tmp_path: Path) -> None:
    fleet = top_variants(tmp_path, seed=0, shape=Shape(vocab=64, hidden=16, layers=8, heads=2, ffn=24))
    assert [app.name for app in fleet.apps[1:]] == [f"top{depth}-{i}" for depth in (1, 2) for i in range(4)]
    assert {key.split(".")[2] for key in changed(fleet, "top1-0")} == {"7"}


def test_the_body_has_thirty_million_parameters_and_an_untied_head() -> None:
    parameters = sum(int(np.prod(size)) for size in BODY_30M.tensors().values())
    assert 29e6 < parameters < 35e6
    assert BODY_30M.config()["tie_word_embeddings"] is False
    assert BODY_30M.positions >= 1024


def test_transformers_and_peft_read_the_folders_and_agree_with_the_merged_ones(fleet: Fleet, tmp_path: Path) -> None:
    import torch

    from work.hf import load

    ids = torch.arange(3, 19)[None]
    whole = merged(fleet, tmp_path)
    with torch.inference_mode():
        hung = load(fleet.app("lora-0").path, merge=False)(ids).logits
        folded = load(whole.app("lora-0").path)(ids).logits
        base = load(fleet.base.path)(ids).logits
    assert torch.allclose(hung, folded, atol=1e-4)
    assert not torch.allclose(base, folded, atol=1e-2)
