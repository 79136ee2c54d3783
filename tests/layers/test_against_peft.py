"""Every kind of attachment equals PEFT's forward, alone and mixed with all others in one batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import peft
import pytest
import torch
import transformers
from peft.tuners.ln_tuning.layer import LNTuningLayer
from torch import Tensor

PROMPTS = [[int(t) for t in torch.randint(0, 97, (n,), generator=torch.Generator().manual_seed(n))] for n in (37, 6)]
QKVO = ["q_proj", "k_proj", "v_proj", "o_proj"]
EVERY = [*QKVO, "gate_proj", "up_proj", "down_proj", "lm_head"]
Blocks = dict[str, list[tuple[str, dict[str, Any], dict[str, Tensor]]]]


def llama() -> Any:
    config = transformers.LlamaConfig(
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=97,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        initializer_range=0.2,
        attention_bias=True,
    )
    return _randomised(transformers.LlamaForCausalLM(config))


def gpt2() -> Any:
    config = transformers.GPT2Config(vocab_size=97, n_positions=128, n_embd=48, n_layer=2, n_head=4)
    return _randomised(transformers.GPT2LMHeadModel(config))


def _randomised(model: Any, scale: float = 0.05) -> Any:
    for parameter in model.parameters():
        parameter.data += scale * torch.randn_like(parameter)
    return model.eval()


def adapted(base: Any, config: peft.PeftConfig) -> Any:
    """PEFT's model on a copy of ``base``, every trainable parameter moved away from its initial value."""
    model = peft.get_peft_model(copy.deepcopy(base), config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


PARTS = {"self_attn": "attn", "attn": "attn", "mlp": "ffn"}
ROLES = {"c_attn": "qkv_proj", "attn.c_proj": "o_proj", "c_fc": "up_proj", "mlp.c_proj": "down_proj"}
NORMS = {"input_layernorm": "attn", "ln_1": "attn", "post_attention_layernorm": "ffn", "ln_2": "ffn"}


def place(module: str) -> tuple[str, str]:
    """(part, role) of a module's dotted name."""
    words = module.split(".")
    if words[-1] == "lm_head":
        return "head", "lm_head"
    if words[-1] in ("embed_tokens", "wte"):
        return "embed", "tokens"
    if words[-1] in ("norm", "ln_f"):
        return "head", "norm"
    layer = next(w for w in words if w.isdigit())
    if words[-1] in NORMS:
        return f"layers.{layer}.{NORMS[words[-1]]}", "norm"
    part = PARTS[words[-2]]
    role = ROLES.get(".".join(words[-2:]), ROLES.get(words[-1], words[-1]))
    return f"layers.{layer}.{part}", role


def lora_blocks(model: Any) -> Blocks:
    blocks: Blocks = {}
    for name, module in model.named_modules():
        if not isinstance(module, peft.tuners.lora.LoraLayer):
            continue
        part, role = place(name)
        embedding = isinstance(module, peft.tuners.lora.Embedding)
        target = {"r": module.r["default"], "scale": module.scaling["default"], "dora": module.use_dora["default"]}
        if embedding:
            down, up = module.lora_embedding_A["default"], module.lora_embedding_B["default"]
            tensors = {f"{role}.lora_A": down, f"{role}.lora_B": up}
        else:
            down, up = module.lora_A["default"], module.lora_B["default"]
            tensors = {f"{role}.lora_A": down.weight, f"{role}.lora_B": up.weight}
            if up.bias is not None:
                tensors[f"{role}.lora_B_bias"] = up.bias
        if target["dora"]:
            tensors[f"{role}.magnitude"] = module.lora_magnitude_vector["default"].weight
        _, arch, held = blocks.setdefault(part, [("lora", {"targets": {}}, {})])[0]
        arch["targets"][role] = target
        held.update({k: v.detach() for k, v in tensors.items()})
    return blocks


def bias_blocks(model: Any) -> Blocks:
    """All linear biases as they now are, as ``bias`` attachments (PEFT's bias="all")."""
    blocks: Blocks = {}
    for name, parameter in model.named_parameters():
        if name.endswith("base_layer.bias"):
            part, role = place(name.removesuffix(".base_layer.bias"))
            _, arch, held = blocks.setdefault(part, [("bias", {"targets": {}}, {})])[0]
            arch["targets"][f"{role}.bias"] = {}
            held[f"{role}.bias"] = parameter.detach()
    return blocks


def ia3_blocks(model: Any) -> Blocks:
    blocks: Blocks = {}
    for name, module in model.named_modules():
        if isinstance(module, peft.tuners.ia3.IA3Layer):
            part, role = place(name)
            _, arch, held = blocks.setdefault(part, [("ia3", {"targets": {}}, {})])[0]
            arch["targets"][role] = {"side": "input" if module.is_feedforward else "output"}
            held[f"{role}.ia3"] = module.ia3_l["default"].detach().flatten()
    return blocks


def norm_blocks(model: Any) -> Blocks:
    blocks: Blocks = {}
    for name, module in model.named_modules():
        if isinstance(module, LNTuningLayer):
            part, role = place(name)
            tuned = module.ln_tuning_layers["default"]
            tensors = {f"{role}.{end}": value.detach() for end, value in tuned.named_parameters()}
            blocks[part] = [("norm", {"targets": {name: {} for name in tensors}}, tensors)]
    return blocks


def prompt_blocks(model: Any) -> Blocks:
    embeddings = model.get_prompt_embedding_to_save("default")
    return {"embed": [("prompt", {"num_virtual_tokens": embeddings.shape[0]}, {"embeddings": embeddings})]}


def prefix_blocks(model: Any) -> Blocks:
    config = model.peft_config["default"]
    flat, count = model.get_prompt_embedding_to_save("default"), config.num_virtual_tokens
    heads = config.num_attention_heads
    kept = flat.view(count, config.num_layers, 2, heads, -1)
    return {
        f"layers.{i}.attn": [("prefix", {"num_virtual_tokens": count}, {"key": kept[:, i, 0], "value": kept[:, i, 1]})]
        for i in range(config.num_layers)
    }


def merged(*several: Blocks) -> Blocks:
    out: Blocks = {}
    for blocks in several:
        for part, own in blocks.items():
            out.setdefault(part, []).extend(own)
    return out


@dataclass(frozen=True)
class Kind:
    config: Callable[[], peft.PeftConfig]
    blocks: Callable[[Any], Blocks]


def lora(**options: Any) -> Kind:
    return Kind(lambda: peft.LoraConfig(**{"r": 4, "lora_alpha": 6, **options}), lora_blocks)


LLAMA: Mapping[str, Kind] = {
    "lora on attention": lora(target_modules=QKVO),
    "lora on everything": lora(target_modules=EVERY, r=7),
    "lora of many ranks": lora(target_modules=EVERY, rank_pattern={"q_proj": 1, "up_proj": 13}, use_rslora=True),
    "lora on one of the fused": lora(target_modules=["v_proj", "up_proj"]),
    "lora on the embedding": lora(target_modules=["embed_tokens", "q_proj"]),
    "lora with bias on B": lora(target_modules=EVERY[:-1], lora_bias=True),
    "lora and biases": Kind(
        lambda: peft.LoraConfig(r=3, target_modules=QKVO, bias="all"),
        lambda model: merged(lora_blocks(model), bias_blocks(model)),
    ),
    "dora": lora(target_modules=EVERY, use_dora=True),
    "dora on the embedding": lora(target_modules=["embed_tokens", "k_proj"], use_dora=True),
    "dora and biases": Kind(
        lambda: peft.LoraConfig(r=3, target_modules=QKVO, bias="all", use_dora=True),
        lambda model: merged(bias_blocks(model), lora_blocks(model)),
    ),
    "ia3": Kind(
        lambda: peft.IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
        ia3_blocks,
    ),
    "ia3 on one input of the fused": Kind(
        lambda: peft.IA3Config(
            target_modules=["q_proj", "o_proj", "up_proj"], feedforward_modules=["q_proj", "up_proj"]
        ),
        ia3_blocks,
    ),
    "norms": Kind(
        lambda: peft.LNTuningConfig(target_modules=["input_layernorm", "post_attention_layernorm", "norm"]), norm_blocks
    ),
    "prompt": Kind(
        lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5, token_dim=48), prompt_blocks
    ),
    "prefix": Kind(lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=19), prefix_blocks),
}
GPT2_TARGETS = ["c_attn", "c_proj", "c_fc"]
GPT2: Mapping[str, Kind] = {
    "lora": lora(target_modules=GPT2_TARGETS, fan_in_fan_out=True),
    "dora": lora(target_modules=GPT2_TARGETS, fan_in_fan_out=True, use_dora=True),
    "ia3": Kind(
        lambda: peft.IA3Config(
            target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"], fan_in_fan_out=True
        ),
        ia3_blocks,
    ),
    "norms": Kind(lambda: peft.LNTuningConfig(target_modules=["ln_1", "ln_2", "ln_f"]), norm_blocks),
    "prompt": Kind(
        lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, token_dim=48), prompt_blocks
    ),
    "prefix": Kind(lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4), prefix_blocks),
}


def peft_logits(model: Any, prompt: Sequence[int]) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(input_ids=torch.tensor([list(prompt)])).logits[0]
    return logits[-len(prompt) :]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_each_kind_alone_and_all_mixed_in_one_batch(toy: ModuleType, family: str) -> None:
    kinds, base = (LLAMA, llama()) if family == "llama" else (GPT2, gpt2())
    parts = (toy.llama_parts if family == "llama" else toy.gpt2_parts)(base.config, base.state_dict())
    ours = toy.ToyModel(parts)
    prompts, attached, expected, names, blocks = [], [], [], [], []
    for name, kind in kinds.items():
        model = adapted(base, kind.config())
        made = kind.blocks(model)
        own = ours.attach(made)
        theirs = [peft_logits(model, prompt) for prompt in PROMPTS]
        assert (theirs[0] - peft_logits(base, PROMPTS[0])).abs().max() > 0.01, f"{name} changes nothing"
        for prompt, wanted, got in zip(PROMPTS, theirs, ours.logits(PROMPTS, [own, own]), strict=True):
            torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
            prompts.append(prompt)
            attached.append(own)
            blocks.append(made)
            expected.append(wanted)
            names.append(name)
    for prompt in PROMPTS:
        prompts.append(prompt)
        attached.append(None)
        blocks.append({})
        expected.append(peft_logits(base, prompt))
        names.append("bare")
    for name, wanted, got in zip(names, expected, ours.logits(prompts, attached), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0, msg=lambda m, n=name: f"{n}, mixed: {m}")
    _check_other_precisions(toy, parts, blocks, prompts, expected, names)


def _check_other_precisions(
    toy: ModuleType,
    parts: Sequence[Any],
    blocks: Sequence[Blocks],
    prompts: Sequence[Sequence[int]],
    expected: Sequence[Tensor],
    names: Sequence[str],
) -> None:
    """The uncompiled path, which other devices take too: float64 agrees closely, bfloat16 on what it is sure of."""
    for dtype in (torch.float64, torch.bfloat16):
        other = toy.ToyModel(parts, toy.Placement(torch.device("cpu"), dtype))
        mixed = other.logits(prompts, [other.attach(own) for own in blocks])
        for name, wanted, got in zip(names, expected, mixed, strict=True):
            assert got.dtype == dtype
            if dtype == torch.float64:
                torch.testing.assert_close(got.float(), wanted, atol=1e-4, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
            else:
                away = (got.float() - wanted).norm() / wanted.norm()
                assert away < 0.05, f"{name}: relative error {away}"


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"lora_bias": True}])
@pytest.mark.parametrize("scale", [0.0, 0.3, 1.7])
def test_a_requests_scale_multiplies_the_low_rank_change(
    toy: ModuleType, options: dict[str, Any], scale: float
) -> None:
    base = llama()
    model = adapted(base, peft.LoraConfig(r=4, lora_alpha=6, target_modules=EVERY[:-1], **options))
    ours = toy.ToyModel(toy.llama_parts(base.config, base.state_dict()))
    own = ours.attach(lora_blocks(model))
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.scale_layer(scale)
    (got,) = ours.logits(PROMPTS[:1], [own], [scale])
    torch.testing.assert_close(got, peft_logits(model, PROMPTS[0]), atol=1e-4, rtol=0)
