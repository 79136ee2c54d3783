"""Models as they come out of the zoo compute what transformers and PEFT compute, for every family and attachment."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoints import CONFIGS, adapted, build

from quiltwork.serving.config import EngineConfig
from quiltwork.serving.engine import Engine
from quiltwork.serving.options import SamplingOptions
from quiltwork.serving.sampling import SamplerState
from quiltwork.serving.sequence import Sequence
from quiltwork.zoo import Zoo

PROMPT = [3, 17, 42, 5, 9, 60, 1, 33, 22, 8, 14, 2, 7, 50, 31]
VOCABULARY = 64
TOLERANCE = 1e-4

ROPES: dict[str, dict[str, Any]] = {
    "linear": {"factor": 3.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
}


def logprobs(zoo: Zoo, name: str) -> torch.Tensor:
    """(tokens, vocabulary): log probabilities of every prompt token but the first, from the engine."""
    ticks = itertools.count()
    engine = Engine(EngineConfig(), lambda: float(next(ticks)))
    engine.install(engine.prepare(zoo.chain(name), zoo.read))
    sampler = SamplerState(SamplingOptions(temperature=0.0), PROMPT)
    engine.add(Sequence(1, zoo.model(name).ref, PROMPT, sampler, 1, prompt_logprobs=VOCABULARY))
    reported = [e.prompt_logprobs for e in iter_steps(engine) if e.prompt_logprobs]
    rows = []
    for sampled in reported[0][1:]:
        assert sampled is not None
        row = torch.full((VOCABULARY,), float("nan"))
        for token, value in sampled.top:
            row[token] = value
        rows.append(row)
    return torch.stack(rows)


def iter_steps(engine: Engine) -> Any:
    while engine.has_work:
        yield from engine.step()


def assert_equal(zoo: Zoo, name: str, model: Any) -> None:
    with torch.no_grad():
        # A prompt method's model also gives the logits of its virtual tokens, in front.
        logits = model(torch.tensor([PROMPT])).logits[0].float()[-len(PROMPT) :]
    theirs = torch.log_softmax(logits, -1)[:-1]
    torch.testing.assert_close(logprobs(zoo, name), theirs, rtol=0, atol=TOLERANCE)


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    return Zoo(tmp_path / "zoo")


@pytest.mark.parametrize("kind", CONFIGS)
def test_families(zoo: Zoo, tmp_path: Path, kind: str) -> None:
    model = build(kind)
    model.save_pretrained(tmp_path / "model")
    zoo.add(tmp_path / "model")
    assert_equal(zoo, "model", model)


@pytest.mark.parametrize("rope", ROPES)
def test_rope_scaling(zoo: Zoo, tmp_path: Path, rope: str) -> None:
    model = build("llama", rope_parameters=ROPES[rope] | {"rope_type": rope, "rope_theta": 10000.0})
    model.save_pretrained(tmp_path / "model")
    zoo.add(tmp_path / "model")
    assert_equal(zoo, "model", model)


def _lora(**options: Any) -> Callable[[str], Any]:
    def make(kind: str) -> Any:
        from peft import LoraConfig

        conv1d = kind == "gpt2"
        named = options.get("modules_to_save", [])
        targets = ["c_attn", "c_proj", "c_fc"] if conv1d else ["q_proj", "v_proj", "o_proj", "down_proj"]
        chosen = {"modules_to_save": ["wte" if conv1d and m == "embed_tokens" else m for m in named]} if named else {}
        fields = {"r": 4, "target_modules": targets} | options | chosen
        return LoraConfig(**fields, fan_in_fan_out=conv1d, task_type="CAUSAL_LM")

    return make


def _embedding_lora(kind: str) -> Any:
    return _lora(target_modules=["wte", "c_attn"] if kind == "gpt2" else ["embed_tokens", "q_proj", "lm_head"])(kind)


def _ia3(kind: str) -> Any:
    from peft import IA3Config

    roles = ["c_attn", "mlp.c_proj"] if kind == "gpt2" else ["k_proj", "v_proj", "down_proj"]
    return IA3Config(
        target_modules=roles, feedforward_modules=roles[-1:], fan_in_fan_out=kind == "gpt2", task_type="CAUSAL_LM"
    )


def _norms(kind: str) -> Any:
    from peft import LNTuningConfig

    norms = {"gpt2": ["ln_1", "ln_f"], "qwen3": ["q_norm", "norm"]}.get(kind, ["input_layernorm", "norm"])
    return LNTuningConfig(target_modules=norms, task_type="CAUSAL_LM")


def _virtual(method: str, **options: Any) -> Callable[[str], Any]:
    def make(kind: str) -> Any:
        import peft

        return getattr(peft, method)(num_virtual_tokens=3, task_type="CAUSAL_LM", **options)

    return make


ADAPTERS: dict[str, Callable[[str], Any]] = {
    "lora": _lora(),
    "rslora": _lora(use_rslora=True, lora_alpha=3),
    "dora": _lora(use_dora=True),
    "patterns": _lora(rank_pattern={"q_proj": 2, "c_attn": 1}, alpha_pattern={r".*1\..*": 32}),
    "regex": _lora(target_modules=r".*\.(q_proj|up_proj|c_attn)"),
    "all-linear": _lora(target_modules="all-linear"),
    "bias": _lora(bias="all"),
    "lora-bias": _lora(lora_bias=True),
    "embedding": _embedding_lora,
    "saved-head": _lora(modules_to_save=["lm_head"]),
    "saved-embedding": _lora(modules_to_save=["embed_tokens"]),
    "ia3": _ia3,
    "norm": _norms,
    "prompt": _virtual("PromptTuningConfig"),
    "p-tuning": _virtual("PromptEncoderConfig", encoder_hidden_size=8),
    "prefix": _virtual("PrefixTuningConfig"),
}


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("kind", ["llama", "llama-tied", "gpt2", "qwen3"])
def test_attachments(zoo: Zoo, tmp_path: Path, kind: str, adapter: str) -> None:
    from peft import PeftModel

    base = build(kind)
    base.save_pretrained(tmp_path / "base")
    zoo.add(tmp_path / "base")
    adapted(build(kind), ADAPTERS[adapter](kind), tmp_path / "adapter")
    added = zoo.add(tmp_path / "adapter", base="base")
    assert added.model.unservable == ()
    assert_equal(zoo, "adapter", PeftModel.from_pretrained(base, tmp_path / "adapter").eval())


@pytest.mark.realdata
@pytest.mark.slow
def test_a_public_adapter_computes_what_peft_makes_of_it(zoo: Zoo, tmp_path: Path, data_dir: Path) -> None:
    from peft import PeftModel
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    # The shape that it was trained for; the vocabulary is of no concern to it.
    base = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=32)).eval()
    base.save_pretrained(tmp_path / "gpt2")
    zoo.add(tmp_path / "gpt2")
    adapter = data_dir / "llm" / "adapters" / "licensed" / "gpt2-lora-r8-tigrinya-causal"
    model = zoo.add(adapter, name="adapter").model
    assert str(model.base) == "gpt2"
    plain = logprobs(zoo, "gpt2")
    assert (logprobs(zoo, "adapter") - plain).abs().max() > 10 * TOLERANCE
    assert_equal(zoo, "adapter", PeftModel.from_pretrained(base, adapter).eval())
