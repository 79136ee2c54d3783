"""A fresh zoo, and tiny checkpoints of every family made with transformers, saved once per session."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quiltwork.zoo import Zoo

_COMMON = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
_LLAMA = _COMMON | {"intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    "llama-tied": _LLAMA | {"tie_word_embeddings": True},
    "mistral": _LLAMA | {"head_dim": 16, "sliding_window": 8},
    "qwen2": _LLAMA | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "qwen3": _LLAMA | {"head_dim": 16, "attention_bias": False},
    "gpt2": {"vocab_size": 64, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64},
}


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    """An empty zoo."""
    return Zoo(tmp_path / "zoo")


def build(kind: str, seed: int = 0, **changes: Any) -> Any:
    """A randomly initialised transformers model of one of ``CONFIGS``; norms and biases are not left at 1 and 0."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind.split("-")[0], **(CONFIGS[kind] | changes))
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``saved(kind, seed=0, **save_options)``: the directory of a tiny model, the same one for the same arguments."""
    made: dict[str, Path] = {}

    def save(kind: str, seed: int = 0, **options: Any) -> Path:
        key = json.dumps([kind, seed, sorted(options.items())])
        if key not in made:
            made[key] = tmp_path_factory.mktemp("models") / f"{kind}-{seed}"
            build(kind, seed).save_pretrained(made[key], **options)
        return made[key]

    return save


@pytest.fixture(scope="session")
def adder() -> Any:
    """The module ``adder.py`` beside this file: small made-up models, in this process or as a program."""
    spec = importlib.util.spec_from_file_location("zoo_adder", Path(__file__).with_name("adder.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
