"""Prefix and prompt tuning through the engine: virtual tokens take places, are cached, and never leak to others."""

import dataclasses

import pytest
import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from tiny_llama import KV_HEADS, LAYERS, Twin, reference

from quiltwork.zoo.types import Chain, Part

PROMPT = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43, 38, 32, 79, 50, 28, 84, 19, 71, 69, 39, 93]


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


@pytest.mark.parametrize("make", [with_prefix, with_prompt])
@pytest.mark.parametrize("count", [5, 16, 20])
def test_virtual_tokens_give_pefts_answers_alone_and_again_from_the_cache(desk, family, make, count):
    d = desk()
    tuned = make(family, "tuned", count, seed=count)
    d.load(tuned)
    expected = tuned.greedy(PROMPT, 6)
    for _ in range(2):
        d.ask(tuned, PROMPT, 6)
        (tokens,) = d.finish().values()
        assert tokens == expected


def test_tuned_and_bare_models_mix_in_one_batch(desk, family):
    d = desk()
    base: Twin = family.base()
    tuned = [with_prefix(family, "a", 5, 1), with_prompt(family, "b", 3, 2), with_prefix(family, "c", 17, 3)]
    d.load(base, *tuned)
    asked = {d.ask(t, PROMPT[i:], 6): (t, PROMPT[i:]) for i, t in enumerate([*tuned, base, *tuned])}
    answers = d.finish()
    for sequence_id, (twin, prompt) in asked.items():
        expected = twin.greedy(prompt, 6)
        assert answers[sequence_id] == (expected[0] if isinstance(twin, Twin) else expected)
