"""Prefix- and prompt-tuned variants of the tiny llama, beside their PEFT twins."""

from __future__ import annotations

import dataclasses

import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from tiny_llama import KV_HEADS, LAYERS, reference

from quiltwork.zoo.types import Chain, Part


@dataclasses.dataclass
class Tuned:
    """A chain with virtual tokens beside the PEFT model it came from."""

    chain: Chain
    model: torch.nn.Module

    @torch.no_grad()
    def greedy(self, prompt, count):
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(self.model(torch.tensor([tokens])).logits[0, -1].argmax()))
        return tokens[len(prompt) :]


def renamed(chain, name, parts):
    model = dataclasses.replace(chain.model, ref=type(chain.model.ref)(name), version=name, parts=tuple(parts))
    return Chain(model, tuple(parts))


def with_prefix(family, name, count, seed) -> Tuned:
    torch.manual_seed(seed)
    base = reference()
    base.load_state_dict(family.base_weights)
    model = get_peft_model(base, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=count)).eval()
    embedding = model.prompt_encoder["default"].embedding.weight
    torch.nn.init.normal_(embedding, std=0.7)
    table = embedding.detach().view(count, LAYERS, 2, KV_HEADS, -1)
    parts = []
    for part in family.base().chain.links:
        if part.name.endswith(".attn"):
            layer = int(part.name.split(".")[1])
            tensors = {"key": table[:, layer, 0], "value": table[:, layer, 1]}
            block = family.bench.block("prefix", {"num_virtual_tokens": count, "seed": seed}, tensors)
            part = Part(part.name, part.block, (block,))
        parts.append(part)
    return Tuned(renamed(family.base().chain, name, parts), model)


def with_prompt(family, name, count, seed) -> Tuned:
    torch.manual_seed(seed)
    base = reference()
    base.load_state_dict(family.base_weights)
    model = get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=count)).eval()
    torch.nn.init.normal_(model.prompt_encoder["default"].embedding.weight, std=0.5)
    tensors = {"embeddings": model.prompt_encoder["default"].embedding.weight.detach()}
    block = family.bench.block("prompt", {"num_virtual_tokens": count, "seed": seed}, tensors)
    embed, *rest = family.base().chain.links
    return Tuned(renamed(family.base().chain, name, [Part(embed.name, embed.block, (block,)), *rest]), model)
