"""The models: that a decoder is Mixtral, and that FLOPs are counted as they are done."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from quiltwork.core.errors import CorruptionError, NotFoundError, UnsupportedError
from quiltwork.moe import Adaptive, TopK, build_model, mixtral_state
from quiltwork.moe.flops import forward_flops
from quiltwork.moe.models import ModelShape, Packed, pack
from quiltwork.moe.models.loading import load_trained
from quiltwork.moe.models.saving import save_model
from quiltwork.moe.training.greedy import translate

SHAPE = ModelShape(vocabulary=40, width=16, inner=8, layers=2, heads=4, kv_heads=2, experts=4)


def decoder(gate):
    return build_model("lm", SHAPE, [gate] * 2, 5)


def test_a_saved_decoder_is_a_mixtral_that_transformers_loads(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = decoder(TopK(2))
    save_model(tmp_path, model, "lm", [TopK(2)] * 2)
    theirs = transformers.MixtralForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    ids = torch.arange(22).view(2, 11)
    with torch.no_grad():
        wanted = theirs(input_ids=ids).logits.flatten(0, 1)
        found = model(ids.flatten(), Packed(torch.tensor([11, 11]))).logits
    assert (found - wanted).abs().max() < 1e-5


def test_a_decoder_is_read_again_as_it_was(tmp_path):
    model = decoder(Adaptive(0.2))
    save_model(tmp_path, model, "lm", [Adaptive(0.2), TopK(1)])
    kept = load_trained(tmp_path).model
    assert all(torch.equal(one, kept.state_dict()[name]) for name, one in model.state_dict().items())
    assert [layer.ffn.gate for layer in kept.layers] == [Adaptive(0.2), TopK(1)]
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CorruptionError, match=r"model\.safetensors: is no whole file of weights"):
        load_trained(tmp_path)
    with pytest.raises(NotFoundError, match="there is no such folder"):
        load_trained(tmp_path / "none")
    assert json.loads((tmp_path / "config.json").read_text())["num_experts_per_tok"] == 2


def test_a_dense_decoder_is_no_mixtral():
    with pytest.raises(UnsupportedError, match=r"layers\.0: Mixtral has experts in every layer"):
        mixtral_state(build_model("lm", SHAPE, [None] * 2, 5))


@pytest.mark.parametrize("lengths", [(7, 3, 1), (5, 5)])
def test_a_run_of_sequences_is_what_each_is_alone(lengths):
    model, drawn = decoder(TopK(2)), torch.Generator().manual_seed(1)
    parts = [torch.randint(40, (n,), generator=drawn) for n in lengths]
    together = model(*pack(parts)).logits.split(list(lengths))
    for part, logits in zip(parts, together, strict=True):
        assert torch.allclose(model(*pack([part])).logits, logits, atol=1e-5)


def test_translating_token_by_token_says_what_the_whole_decoder_finds_most_probable():
    model = build_model("translate", SHAPE, [TopK(2)] * 2, 5)
    sources = [torch.tensor([3, 4, 5]), torch.tensor([9]), torch.tensor([8, 2, 2, 7, 1])]
    ids, packed = pack(sources)
    said = translate(model, ids, packed, 38, 39, 6)
    for source, tokens in zip(sources, said, strict=True):
        target = torch.tensor([38, *tokens])
        logits = model(*pack([source]), *pack([target])).logits.argmax(-1).tolist()
        assert logits[: len(tokens)] == tokens
        assert len(tokens) == 6 or logits[-1] == 39


@pytest.mark.parametrize("task", ["lm", "classify", "translate"])
def test_flops_are_those_that_torch_counts(task):
    from dataclasses import replace

    model = build_model(task, replace(SHAPE, classes=3), [TopK(2)] * 2, 5)
    first, second = pack([torch.arange(6), torch.arange(6)]), pack([torch.arange(4), torch.arange(4)])
    given = [first, second] if task == "translate" else [first]
    flops = forward_flops(model, [packed for _, packed in given])
    # What is written out as products torch counts: of a causal score all of the square.
    with FlopCounterMode(display=False) as counted, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(*(part for one in given for part in one))
    causal = {"lm": [6, 6], "classify": [], "translate": [4, 4]}[task]
    unseen = sum(4 * n * (n - 1) // 2 * SHAPE.width for n in causal) * len(model.layers)
    assert counted.get_total_flops() == flops.total + unseen


def test_experts_are_two_thirds_of_the_work_at_the_usual_shapes():
    from quiltwork.moe.training.checking import read_settings

    for task, vocabulary, lengths in (
        ("lm", 256, [[128]]),
        ("classify", 4000, [[25]]),
        ("translate", 2000, [[19], [21]]),
    ):
        settings = read_settings({"task": task, "corpus": ["a", "b"], "out": "o", "steps": 1})
        model = build_model(task, settings.shape(vocabulary, 2), [TopK(2)] * settings.layers, 0)
        share = forward_flops(model, [Packed(torch.tensor(one)) for one in lengths]).expert_share
        assert 0.6 <= share <= 0.7, task
