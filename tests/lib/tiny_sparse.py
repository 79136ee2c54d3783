"""Tiny transformers models, dense and sparse, randomly initialised, and batches for them."""

from __future__ import annotations

from typing import Any

import torch

_COMMON = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64,
}  # fmt: skip
_LLAMA = _COMMON | {"num_key_value_heads": 2, "intermediate_size": 48}
_BERT = _COMMON | {"intermediate_size": 48}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", _LLAMA),
    "llama-tied": ("LlamaForCausalLM", _LLAMA | {"tie_word_embeddings": True}),
    "llama-biased": ("LlamaForCausalLM", _LLAMA | {"mlp_bias": True, "attention_bias": True}),
    "mistral": ("MistralForCausalLM", _LLAMA | {"sliding_window": 8, "head_dim": 16}),
    "qwen2": ("Qwen2ForCausalLM", _LLAMA),
    "qwen3": ("Qwen3ForCausalLM", _LLAMA | {"head_dim": 8}),
    "gpt2": ("GPT2LMHeadModel", {"vocab_size": 64, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64}),
    "bert": ("BertForMaskedLM", _BERT | {"chunk_size_feed_forward": 3}),
    "bert-classes": ("BertForSequenceClassification", _BERT | {"num_labels": 3}),
    "roberta": ("RobertaModel", _BERT),
    "mixtral": ("MixtralForCausalLM", _LLAMA | {"num_local_experts": 5}),
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        _LLAMA | {
            "num_hidden_layers": 4, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40,
            "num_experts": 6, "num_experts_per_tok": 4, "mlp_only_layers": [1], "decoder_sparse_step": 1,
        },
    ),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        _LLAMA | {"moe_intermediate_size": 24, "num_experts": 6, "num_experts_per_tok": 2, "head_dim": 8},
    ),
    "olmoe": ("OlmoeForCausalLM", _LLAMA | {"num_experts": 8, "num_experts_per_tok": 4}),
}  # fmt: skip


def build(kind: str, seed: int = 0, **changes: Any) -> Any:
    """One of ``MODELS``, for evaluation; norms and biases are not left at 1 and 0, and routers are opinionated."""
    import transformers

    torch.manual_seed(seed)
    name, settings = MODELS[kind]
    made = getattr(transformers, name)
    model = made(made.config_class(**(settings | changes))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            router = name.endswith("mlp.gate.weight")
            parameter.add_(torch.randn_like(parameter) * (0.5 if router else 0.1))
    return model


def tokens(seed: int = 0, batch: int = 3, length: int = 12) -> torch.Tensor:
    """(batch, length) int64."""
    return torch.randint(3, 64, (batch, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def outputs(model: Any, ids: torch.Tensor | None = None, **batch: Any) -> torch.Tensor:
    """What a model makes of a batch: logits, or the last hidden states where it has no head."""
    done = model(tokens() if ids is None else ids, **batch)
    return done.logits if hasattr(done, "logits") else done.last_hidden_state
