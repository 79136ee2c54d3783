"""Tiny checkpoints of every family, made with transformers, and adapters on them, made with PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
_SPARSE = _LLAMA | {"num_experts_per_tok": 2}
SPARSE_CONFIGS: dict[str, dict[str, Any]] = {
    "mixtral": _SPARSE | {"num_local_experts": 4},
    "qwen2_moe": _SPARSE
    | {"num_experts": 6, "num_experts_per_tok": 4, "moe_intermediate_size": 16, "mlp_only_layers": [0]}
    | {"shared_expert_intermediate_size": 24, "use_sliding_window": True, "sliding_window": 8},
    "qwen3_moe": _SPARSE | {"num_experts": 4, "moe_intermediate_size": 16, "head_dim": 16, "norm_topk_prob": True},
    "olmoe": _SPARSE | {"num_experts": 8, "num_experts_per_tok": 4},
}
"""Those whose feed-forward layers are mixtures of experts."""


def build(kind: str, seed: int = 0, **changes: Any) -> Any:
    """A randomly initialised transformers model of one of ``CONFIGS`` or ``SPARSE_CONFIGS``.

    Norms and biases are not left at 1 and 0.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind.split("-")[0], **((CONFIGS | SPARSE_CONFIGS)[kind] | changes))
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def adapted(base: Any, config: Any, folder: Path, seed: int = 1) -> Any:
    """Put a randomly filled adapter on ``base``, save it, and give the PEFT model."""
    import torch
    from peft import get_peft_model

    torch.manual_seed(seed)
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad or "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return model.eval()
