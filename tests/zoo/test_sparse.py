"""Mixtures of experts by blocks: each expert its own, however the checkpoint keeps it, and written as it came."""

from __future__ import annotations

import filecmp
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoints import SPARSE_CONFIGS, adapted, build

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.zoo import Zoo
from quiltwork.zoo.families import FAMILIES
from quiltwork.zoo.plan import make_plan
from quiltwork.zoo.types import Block, Model, Part


def part(model: Model, name: str) -> Part:
    return next(one for one in model.parts if one.name == name)


def experts(model: Model, layer: int = 1) -> dict[str, Block]:
    return {child.name: child.block for child in part(model, f"layers.{layer}.ffn").block.children}


def changed(folder: Path, to: Path, **fields: Any) -> Path:
    """A copy of a model's folder whose config.json says something else; None takes a field out."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text()) | fields
    (to / "config.json").write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
    return to


@pytest.mark.parametrize("kind", SPARSE_CONFIGS)
@pytest.mark.parametrize("original", [True, False], ids=["apart", "fused"])
def test_what_came_in_goes_out_byte_for_byte(zoo: Zoo, saved: Any, tmp_path: Path, kind: str, original: bool) -> None:
    folder = saved(kind, save_original_format=original)
    added = zoo.add(folder, name=kind)
    assert added.model.unservable == ()
    zoo.export(kind, tmp_path / "out")
    names = sorted(path.name for path in folder.iterdir())
    assert filecmp.cmpfiles(folder, tmp_path / "out", names, shallow=False) == (names, [], [])


@pytest.mark.parametrize("kind", SPARSE_CONFIGS)
def test_experts_in_one_tensor_and_apart_are_the_same_blocks(zoo: Zoo, saved: Any, kind: str) -> None:
    apart = zoo.add(saved(kind, save_original_format=True), name="apart")
    fused = zoo.add(saved(kind, save_original_format=False), name="fused")
    assert [one.block.id for one in apart.model.parts] == [one.block.id for one in fused.model.parts]
    assert fused.new_bytes < 4000  # headers and configuration
    assert all(change.same for change in zoo.diff("apart", "fused").changes)


def test_a_model_split_into_files_and_kept_as_half_is_understood_too(zoo: Zoo, tmp_path: Path) -> None:
    model = build("mixtral").to(torch.bfloat16)
    model.save_pretrained(tmp_path / "m", save_original_format=False, max_shard_size="20KB")
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 1
    zoo.add(tmp_path / "m")
    zoo.export("m", tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "m").iterdir())
    assert filecmp.cmpfiles(tmp_path / "m", tmp_path / "out", names, shallow=False) == (names, [], [])


def test_identical_experts_are_kept_once(zoo: Zoo, tmp_path: Path) -> None:
    """As after upcycling: every expert a copy of one dense layer."""
    model = build("mixtral")
    with torch.no_grad():
        for layer in model.model.layers:
            for stacked in (layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj):
                stacked.copy_(stacked[:1].expand_as(stacked).clone())
    model.save_pretrained(tmp_path / "copies")
    found = experts(zoo.add(tmp_path / "copies").model)
    assert list(found) == [f"experts.{i}" for i in range(4)]
    assert len({block.id for block in found.values()}) == 1
    assert {block.kind for block in found.values()} == {"expert"}


def test_a_fine_tune_shares_the_experts_it_left_alone(zoo: Zoo, saved: Any, tmp_path: Path) -> None:
    zoo.add(saved("mixtral"), name="base")
    model = build("mixtral")
    with torch.no_grad():
        model.model.layers[1].mlp.experts.down_proj[2] += 0.1
    model.save_pretrained(tmp_path / "tuned")
    added = zoo.add(tmp_path / "tuned")
    ours, theirs = experts(added.model), experts(zoo.model("base"))
    assert [name for name in ours if ours[name].id != theirs[name].id] == ["experts.2"]
    assert any(note.startswith("fine-tune of public/base") or "fine-tune of base" in note for note in added.notes)
    different = [change for change in zoo.diff("base", "tuned").changes if not change.same]
    assert [(change.part, change.kind, change.changed) for change in different] == [("layers.1.ffn", "moe", 1)]
    assert different[0].changed_bytes == 32 * 48 * 4
    usage = {str(one.ref.name): one for one in zoo.du().models}
    assert usage["tuned"].own_bytes < usage["tuned"].shared_bytes
    told = zoo.explain("tuned")
    outer = part(added.model, "layers.1.ffn").block
    assert told.own_bytes == sum(t.nbytes for t in (*outer.tensors, *ours["experts.2"].tensors))


def test_every_place_has_the_name_that_transformers_gives_it() -> None:
    for kind, config in SPARSE_CONFIGS.items():
        plan = make_plan(FAMILIES[kind], config | {"model_type": kind})
        paths = {path for path, _ in build(kind).named_modules()}
        outside = {path for path in plan.modules if ".experts." not in path and "block_sparse_moe" not in path}
        assert outside <= paths


def test_dense_layers_stand_between_mixtures_where_the_configuration_says_so() -> None:
    def kinds(**changes: Any) -> list[str]:
        config = SPARSE_CONFIGS["qwen2_moe"] | {"num_hidden_layers": 4, "mlp_only_layers": [], **changes}
        return [one.kind for one in make_plan(FAMILIES["qwen2_moe"], config).parts if one.name.endswith("ffn")]

    assert kinds() == ["moe"] * 4
    assert kinds(decoder_sparse_step=2) == ["ffn", "moe", "ffn", "moe"]
    assert kinds(mlp_only_layers=[3]) == ["moe", "moe", "moe", "ffn"]


def gates(config: dict[str, Any], kind: str = "mixtral") -> list[tuple[Any, ...]]:
    plan = make_plan(FAMILIES[kind], SPARSE_CONFIGS[kind] | config)
    return [
        tuple(one.arch[key] for key in ("gate", "most", "threshold", "reading", "weights"))
        for one in plan.parts
        if one.kind == "moe"
    ]


def test_the_gate_is_the_trained_one_unless_the_configuration_has_another() -> None:
    assert gates({}) == [("top_k", 2, 1.0, "softmax", "sum_to_one")] * 2
    assert gates({}, "olmoe") == [("top_k", 4, 1.0, "softmax", "raw")] * 2
    assert gates({"norm_topk_prob": True}, "olmoe") == [("top_k", 4, 1.0, "softmax", "sum_to_one")] * 2


def test_gates_are_read_layer_by_layer() -> None:
    own = {
        "0": {"gate": "Adaptive", "threshold": 0.1, "most": 3, "reading": "pair", "weights": "raw"},
        "1": {"gate": "TopK", "k": 1, "weights": "sum_to_one"},
    }
    assert gates({"quiltwork_moe": {"gates": own, "task": "lm"}}) == [
        ("adaptive", 3, 0.1, "pair", "raw"), ("top_k", 1, 1.0, "softmax", "sum_to_one"),
    ]  # fmt: skip
    assert gates({"quiltwork_moe": {"gates": {"0": own["0"]}}})[1] == ("top_k", 2, 1.0, "softmax", "sum_to_one")
    short = {"gates": {"1": {"gate": "Adaptive", "most": 9}}}
    assert gates({"quiltwork_moe": short}, "qwen2_moe") == [("adaptive", 6, 0.1, "softmax", "raw")], "as it was trained"


def test_a_gate_that_looks_at_other_tokens_is_stored_and_not_served(zoo: Zoo, saved: Any, tmp_path: Path) -> None:
    folder = changed(
        saved("mixtral"), tmp_path / "m", quiltwork_moe={"gates": {"1": {"gate": "ExpertChoice", "mean": 2.0}}}
    )
    added = zoo.add(folder)
    assert added.model.unservable == ("config.json: quiltwork_moe: the gate 'ExpertChoice' is not served",)


def test_a_calibration_beside_the_configuration_is_the_gate(zoo: Zoo, saved: Any, tmp_path: Path) -> None:
    folder = changed(saved("mixtral"), tmp_path / "m")
    own = {str(i): {"gate": "Adaptive", "threshold": t} for i, t in enumerate((0.05, 0.2))}
    (folder / "moe_calibration.json").write_text(json.dumps({"quiltwork_moe": {"gates": own}, "figures": {}}))
    base, own = zoo.add(saved("mixtral"), name="base").model, zoo.add(folder, name="calibrated").model
    assert [part(own, f"layers.{i}.ffn").block.arch["threshold"] for i in range(2)] == [0.05, 0.2]
    assert experts(own) == experts(base)
    zoo.export("calibrated", tmp_path / "out")
    assert filecmp.cmp(folder / "config.json", tmp_path / "out" / "config.json", shallow=False)


def first_gate(**fields: Any) -> dict[str, Any]:
    return {"quiltwork_moe": {"gates": {"0": {"gate": "Adaptive"} | fields}}}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"num_experts_per_tok": 5}, "num_experts_per_tok: 5 of 4 experts"),
        ({"num_local_experts": 10**9}, "num_local_experts: 1000000000 is absurdly large"),
        ({"num_local_experts": 5}, "experts.4.w1.weight: this tensor is missing"),
        ({"num_local_experts": 3}, "gate.weight: has shape [4, 32], the configuration asks for [3, 32]"),
        ({"intermediate_size": 47}, "w1.weight: has shape"),
        ({"quiltwork_moe": [1]}, "quiltwork_moe: there are no gates"),
        ({"quiltwork_moe": {"threshold": 0.1}}, "quiltwork_moe: there are no gates"),
        ({"quiltwork_moe": {"gates": []}}, "quiltwork_moe: there are no gates"),
        ({"quiltwork_moe": {"gates": {"0": 3}}}, "gates: 0: is no gate"),
        ({"quiltwork_moe": {"gates": {"7": {}}}}, "gates: '7' is no layer of experts"),
        (first_gate(gate=3), "gates: 0: gate: must be text, not 3"),
        (first_gate(threshold="low"), "gates: 0: threshold: must be a number, not low"),
        (first_gate(most=0), "gates: 0: most: must be a positive whole number, not 0"),
        (first_gate(reading="C"), "gates: 0: reading: 'C' is not one of softmax, pair"),
        (first_gate(weights=3), "gates: 0: weights: '3' is not one of sum_to_one, raw"),
        (first_gate(k=2), "gates: 0: k: Adaptive has no such setting"),
        (first_gate(gate="TopK", k=9), "gates: 0: k: 9 of 4 experts"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_one_clear_line(
    zoo: Zoo, saved: Any, tmp_path: Path, fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(BadInputError, match=named.replace("[", r"\[")) as caught:
        zoo.add(changed(saved("mixtral"), tmp_path / "m", **fields))
    assert "\n" not in str(caught.value)


def test_a_calibration_that_says_nothing_of_a_gate_is_refused(zoo: Zoo, saved: Any, tmp_path: Path) -> None:
    folder = changed(saved("mixtral"), tmp_path / "m")
    (folder / "moe_calibration.json").write_text("{}")
    with pytest.raises(BadInputError, match=r"moe_calibration\.json: quiltwork_moe: there are no gates"):
        zoo.add(folder)


def lora(tmp_path: Path, targets: list[str]) -> Path:
    from peft import LoraConfig

    folder = tmp_path / "lora"
    adapted(build("qwen2_moe"), LoraConfig(target_modules=targets, task_type="CAUSAL_LM"), folder)
    return folder


def test_an_adapter_of_attention_hangs_on_a_model_with_experts(zoo: Zoo, saved: Any, tmp_path: Path) -> None:
    zoo.add(saved("qwen2_moe"), name="base")
    added = zoo.add(lora(tmp_path, ["q_proj", "o_proj"]), base="base")
    assert added.model.unservable == ()
    zoo.export(added.model.ref, tmp_path / "whole", merged=True)
    again = zoo.add(tmp_path / "whole", name="again").model
    assert experts(again) == experts(zoo.model("base"))


def test_an_adapter_of_experts_is_refused_in_one_line(zoo: Zoo, saved: Any, tmp_path: Path) -> None:
    zoo.add(saved("qwen2_moe"), name="base")
    added = zoo.add(lora(tmp_path, ["q_proj", "shared_expert.up_proj"]), base="base")
    assert added.model.unservable == (
        "adapter_config.json: target_modules: adapters of layers.1.ffn.shared: experts take none",
    )
    with pytest.raises(UnsupportedError, match="experts take none"):
        zoo.chain(added.model.ref)
