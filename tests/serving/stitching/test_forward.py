"""The differentiable arithmetic is that of the executors, for every family and attachment that can be folded in."""

import itertools

import pytest
import torch
from tiny_checkpoints import CONFIGS, adapted, build

from quiltwork.core.errors import UnsupportedError
from quiltwork.serving.config import EngineConfig
from quiltwork.serving.engine import Engine
from quiltwork.serving.options import SamplingOptions
from quiltwork.serving.sampling import SamplerState
from quiltwork.serving.sequence import Sequence
from quiltwork.serving.stitching.chains import read_chain
from quiltwork.serving.stitching.forward import run
from quiltwork.zoo import Zoo

PROMPT = [3, 17, 42, 5, 9, 60, 1, 33, 22, 8, 14, 2, 7, 50, 31, 11, 12, 13, 4, 6]
VOCABULARY = 64
CPU = torch.device("cpu")
ROPES = {
    "linear": {"factor": 3.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
}


def executed(zoo: Zoo, name: str) -> torch.Tensor:
    """(tokens - 1, vocabulary) log-probabilities of the prompt's tokens, from the engine."""
    ticks = itertools.count()
    engine = Engine(EngineConfig(), lambda: float(next(ticks)))
    engine.install(engine.prepare(zoo.chain(name), zoo.read))
    sampler = SamplerState(SamplingOptions(temperature=0.0), PROMPT)
    engine.add(Sequence(1, zoo.model(name).ref, PROMPT, sampler, 1, prompt_logprobs=VOCABULARY))
    reports = []
    while engine.has_work:
        reports += [e.prompt_logprobs for e in engine.step() if e.prompt_logprobs]
    rows = torch.full((len(PROMPT) - 1, VOCABULARY), float("nan"))
    for row, sampled in enumerate(reports[0][1:]):
        for token, value in sampled.top:
            rows[row, token] = value
    return rows


def assert_equal(zoo: Zoo, name: str) -> None:
    chain = read_chain(zoo, zoo.chain(name), CPU)
    ids = torch.tensor([PROMPT, PROMPT[::-1]])
    ours = run(chain.links, ids).log_softmax(-1)[0, :-1]
    torch.testing.assert_close(ours, executed(zoo, name), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_family_gives_the_executors_logits(zoo, tmp_path, kind):
    build(kind).save_pretrained(tmp_path / "model")
    zoo.add(tmp_path / "model")
    assert_equal(zoo, "model")


@pytest.mark.parametrize("rope", ROPES)
def test_rope_scaling_gives_the_executors_logits(zoo, tmp_path, rope):
    build("llama", rope_parameters=ROPES[rope] | {"rope_type": rope, "rope_theta": 10000.0}).save_pretrained(
        tmp_path / "model"
    )
    zoo.add(tmp_path / "model")
    assert_equal(zoo, "model")


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("adapter", ["lora", "ia3", "norm"])
def test_adapters_are_folded_in(zoo, tmp_path, kind, adapter):
    from peft import IA3Config, LNTuningConfig, LoraConfig

    flipped = {"fan_in_fan_out": kind == "gpt2", "task_type": "CAUSAL_LM"}
    roles = ["c_attn", "mlp.c_proj"] if kind == "gpt2" else ["q_proj", "down_proj"]
    config = {
        "lora": lambda: LoraConfig(r=2, target_modules=roles, **flipped),
        "ia3": lambda: IA3Config(target_modules=roles, feedforward_modules=roles[-1:], **flipped),
        "norm": lambda: LNTuningConfig(target_modules=["ln_1" if kind == "gpt2" else "input_layernorm"]),
    }[adapter]()
    build(kind).save_pretrained(tmp_path / "base")
    zoo.add(tmp_path / "base")
    adapted(build(kind), config, tmp_path / "adapter")
    zoo.add(tmp_path / "adapter", base="base")
    assert_equal(zoo, "adapter")


def test_gradients_reach_every_tensor(zoo):
    chain = read_chain(zoo, zoo.chain("large"), CPU)
    for link in chain.links:
        for tensor in link.tensors.values():
            tensor.requires_grad_()
    run(chain.links, torch.tensor([[1, 4, 5, 6, 7]])).logsumexp(-1).sum().backward()
    assert all(float(tensor.grad.abs().sum()) > 0 for tensor in chain.trained())


def test_what_gradients_cannot_go_through_is_refused_by_name(zoo, tmp_path):
    from peft import PrefixTuningConfig

    build("llama").save_pretrained(tmp_path / "base")
    zoo.add(tmp_path / "base")
    adapted(build("llama"), PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"), tmp_path / "prefix")
    zoo.add(tmp_path / "prefix", base="base")
    with pytest.raises(UnsupportedError, match="a prefix cannot be trained through"):
        read_chain(zoo, zoo.chain("prefix"), CPU)
