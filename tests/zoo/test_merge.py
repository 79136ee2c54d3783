"""A merged export is what PEFT's own merge gives, for every kind of adapter and base layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import adapted, build

from quiltwork.core.errors import UnsupportedError
from quiltwork.zoo import Zoo

LORA = {
    "plain": {"r": 4, "lora_alpha": 8},
    "rslora": {"r": 4, "lora_alpha": 8, "use_rslora": True},
    "dora": {"r": 4, "use_dora": True},
    "patterns": {
        "r": 4,
        "rank_pattern": {"q_proj": 2, "model.layers.1.self_attn.v_proj": 3},
        "alpha_pattern": {r"layers\.0\..*": 32},
    },
    "regex": {"r": 3, "target_modules": r".*\.1\.(self_attn|mlp)\.(q_proj|down_proj)"},
    "all-linear": {"r": 2, "target_modules": "all-linear"},
    "layers": {"r": 2, "layers_to_transform": [1], "layers_pattern": "layers"},
    "bias-all": {"r": 2, "bias": "all"},
    "bias-lora-only": {"r": 2, "bias": "lora_only"},
    "lora-bias": {"r": 2, "lora_bias": True},
    "saved": {"r": 2, "modules_to_save": ["lm_head", "norm"]},
    "embedding": {"r": 2, "target_modules": ["embed_tokens", "q_proj", "lm_head"]},
    "embedding-dora": {"r": 2, "use_dora": True, "target_modules": ["embed_tokens", "q_proj"]},
    "excluded": {"r": 2, "exclude_modules": r".*\.0\..*"},
}


def round_trip(zoo: Zoo, tmp_path: Path, kind: str, config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """State dicts of PEFT's merged model and of ours, loaded by transformers."""
    from transformers import AutoModelForCausalLM

    base = build(kind)
    base.save_pretrained(tmp_path / "base")
    config.base_model_name_or_path = str(tmp_path / "base")
    merged = adapted(base, config, tmp_path / "adapter").merge_and_unload()
    zoo.add(tmp_path / "base")
    assert zoo.add(tmp_path / "adapter").model.unservable == ()
    zoo.export("adapter", tmp_path / "merged", merged=True)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    return merged.state_dict(), ours.state_dict()


def assert_close(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    import torch

    assert theirs.keys() == ours.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(
            ours[name], value, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("case", LORA)
def test_lora_merges_as_in_peft(zoo: Zoo, tmp_path: Path, case: str) -> None:
    from peft import LoraConfig

    options = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]} | LORA[case]
    assert_close(*round_trip(zoo, tmp_path, "llama", LoraConfig(**options, task_type="CAUSAL_LM")))


@pytest.mark.parametrize("case", ["plain", "dora", "bias-all", "rslora"])
def test_lora_on_conv1d_merges_as_in_peft(zoo: Zoo, tmp_path: Path, case: str) -> None:
    from peft import LoraConfig

    options = {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True} | LORA[case]
    assert_close(*round_trip(zoo, tmp_path, "gpt2", LoraConfig(**options, task_type="CAUSAL_LM")))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3"])
def test_ia3_merges_as_in_peft(zoo: Zoo, tmp_path: Path, kind: str) -> None:
    from peft import IA3Config

    roles = (
        (["c_attn", "mlp.c_proj"], ["mlp.c_proj"])
        if kind == "gpt2"
        else (["k_proj", "v_proj", "down_proj"], ["down_proj"])
    )
    config = IA3Config(
        target_modules=roles[0], feedforward_modules=roles[1], fan_in_fan_out=kind == "gpt2", task_type="CAUSAL_LM"
    )
    assert_close(*round_trip(zoo, tmp_path, kind, config))


@pytest.mark.parametrize(("kind", "norms"), [("llama", ["input_layernorm", "norm"]), ("gpt2", ["ln_1", "ln_f"])])
def test_norm_tuning_merges_as_in_peft(zoo: Zoo, tmp_path: Path, kind: str, norms: list[str]) -> None:
    from peft import LNTuningConfig

    assert_close(*round_trip(zoo, tmp_path, kind, LNTuningConfig(target_modules=norms, task_type="CAUSAL_LM")))


def test_virtual_tokens_cannot_be_merged(zoo: Zoo, tmp_path: Path) -> None:
    from peft import PromptTuningConfig

    base = build("llama")
    base.save_pretrained(tmp_path / "base")
    config = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM", base_model_name_or_path="base")
    adapted(base, config, tmp_path / "adapter")
    zoo.add(tmp_path / "base")
    zoo.add(tmp_path / "adapter")
    with pytest.raises(UnsupportedError, match="prompt cannot be merged"):
        zoo.export("adapter", tmp_path / "merged", merged=True)
    assert not (tmp_path / "merged").exists()
