"""Logits of whole small models equal transformers', prefilled in chunks and decoded, several lengths in one batch."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
import transformers

SMALL = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 97,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "initializer_range": 0.2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
MODELS = {
    "llama": ("Llama", {}),
    "llama one key head": ("Llama", {"num_key_value_heads": 1}),
    "llama every head its own keys": ("Llama", {"num_key_value_heads": 4}),
    "llama attention biases": ("Llama", {"attention_bias": True}),
    "llama linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
    "llama llama3": ("Llama", {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}}),
    "llama yarn": ("Llama", {"rope_parameters": {**YARN, "rope_theta": 1e4}}),
    "llama yarn mscale": (
        "Llama",
        {
            "rope_parameters": {
                **YARN, "rope_theta": 1e4, "mscale": 0.7, "mscale_all_dim": 1.2, "truncate": False, "beta_fast": 16
            }
        },
    ),
    "mistral sliding window": ("Mistral", {"sliding_window": 13}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 24}),
}  # fmt: skip
PROMPTS = [list(torch.randint(0, 97, (n,), generator=torch.Generator().manual_seed(n))) for n in (61, 7, 1, 90)]
PROMPTS = [[int(t) for t in p] for p in PROMPTS]


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Every parameter away from its initial zero or one, so that none can be forgotten."""
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_llama_shaped_logits(toy: ModuleType, name: str) -> None:
    kind, changes = MODELS[name]
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, **changes}, attn_implementation="eager")
    model = randomised(getattr(transformers, f"{kind}ForCausalLM")(config))
    ours = toy.ToyModel(toy.llama_parts(config, model.state_dict()))
    for prompt, logits in zip(PROMPTS, ours.logits(PROMPTS), strict=True):
        with torch.no_grad():
            theirs = model(torch.tensor([prompt])).logits[0]
        torch.testing.assert_close(logits, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
def test_gpt2_logits(toy: ModuleType, activation: str) -> None:
    config = transformers.GPT2Config(
        vocab_size=97, n_positions=128, n_embd=48, n_layer=2, n_head=4, activation_function=activation
    )
    model = randomised(transformers.GPT2LMHeadModel(config))
    ours = toy.ToyModel(toy.gpt2_parts(config, model.state_dict()))
    for prompt, logits in zip(PROMPTS, ours.logits(PROMPTS), strict=True):
        with torch.no_grad():
            theirs = model(torch.tensor([prompt])).logits[0]
        torch.testing.assert_close(logits, theirs, atol=1e-4, rtol=0)
