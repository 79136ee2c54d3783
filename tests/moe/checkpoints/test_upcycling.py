"""A dense model made sparse computes what it computed, and can be trained."""

from __future__ import annotations

import pytest
import torch
from tiny_sparse import build, outputs, tokens

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.moe import Adaptive, TopK, record_routing, sparse_blocks, upcycle
from quiltwork.moe.checkpoints.sparse_block import set_gates

DENSE = ("llama", "llama-biased", "mistral", "qwen2", "qwen3", "gpt2", "bert", "bert-classes", "roberta")
GATES = (TopK(1), TopK(2), TopK(4), Adaptive(), Adaptive(threshold=0.01, most=4), Adaptive(reading="pair"))


@pytest.mark.parametrize("kind", DENSE)
def test_its_outputs_are_the_dense_models_with_every_gate_whose_weights_sum_to_one(kind):
    model = build(kind)
    dense = outputs(model)
    upcycle(model, 4, GATES[0], seed=1)
    for gate in GATES:
        set_gates(model, gate)
        torch.testing.assert_close(outputs(model), dense, atol=1e-4, rtol=0)


def test_raw_weights_do_not_preserve_the_outputs():
    model = build("llama")
    dense = outputs(model)
    assert (outputs(upcycle(model, 4, Adaptive(weights="raw"))) - dense).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_it_learns_and_so_do_its_routers_and_each_expert_that_is_used(kind):
    model = upcycle(build(kind), 4, Adaptive(threshold=-1.0)).train()
    ids = tokens()
    descent = torch.optim.SGD(model.parameters(), lr=0.05)
    before = [block.layer.experts.down.detach().clone() for block in sparse_blocks(model).values()]
    losses = []
    for _ in range(4):
        torch.manual_seed(0)
        with record_routing(model) as routings:
            loss = model(ids, labels=ids).loss
        descent.zero_grad()
        loss.backward()
        for block in sparse_blocks(model).values():
            assert block.layer.router.grad.norm() > 0
            used = routings[block.index][0].load > 0
            assert ((block.layer.experts.down.grad.flatten(1).norm(dim=1) > 0) == used).all()
        descent.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    for block, down in zip(sparse_blocks(model).values(), before, strict=True):
        assert not torch.equal(block.layer.experts.down.detach(), down)


def test_experts_are_told_apart_by_the_router_alone_and_the_seed_says_how():
    first, again, other = (upcycle(build("llama"), 8, TopK(1), seed=seed) for seed in (3, 3, 4))
    routers = [sparse_blocks(model)[0].layer.router for model in (first, again, other)]
    assert torch.equal(routers[0], routers[1])
    assert not torch.equal(routers[0], routers[2])
    experts = sparse_blocks(first)[0].layer.experts
    assert all(torch.equal(experts.up[0], experts.up[e]) for e in range(8))
    with record_routing(first) as routings:
        outputs(first)
    assert (routings[0][0].load > 0).sum() > 2


def test_noise_makes_experts_differ_by_a_share_of_their_spread():
    model = build("gpt2")
    spread = model.transformer.h[0].mlp.c_fc.weight.std()
    experts = sparse_blocks(upcycle(model, 3, TopK(2), noise=0.1))[0].layer.experts
    differ = float((experts.up[0] - experts.up[1]).detach().std())
    assert differ == pytest.approx(0.1 * float(spread.detach()) * 2**0.5, rel=0.1)


def test_only_the_layers_that_are_named_become_sparse():
    model = build("llama")
    dense = outputs(model)
    upcycle(model, 4, layers=[1])
    assert list(sparse_blocks(model)) == [1]
    assert type(model.model.layers[0].mlp).__name__ == "LlamaMLP"
    torch.testing.assert_close(outputs(model), dense, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["llama", "bert"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_takes_no_expert_and_changes_no_tokens_output(kind, side):
    model = build(kind)
    ids, mask = tokens(), torch.ones(3, 12, dtype=torch.int64)
    for row, padded in enumerate((0, 3, 7)):
        mask[row, slice(None, padded) if side == "left" else slice(12 - padded, None)] = 0
    dense = outputs(model, ids, attention_mask=mask)
    upcycle(model, 4, TopK(2))
    with record_routing(model) as routings:
        sparse = outputs(model, ids, attention_mask=mask)
    torch.testing.assert_close(sparse[mask == 1], dense[mask == 1], atol=1e-4, rtol=0)
    assert [found[0].tokens for found in routings.values()] == [26, 26]
    assert all(found[0].experts_per_token().tolist() == [2] * 26 for found in routings.values())
    with record_routing(model) as routings:
        outputs(model, ids)
    assert routings[0][0].tokens == 36


def test_it_generates_with_a_cache_and_padding_what_the_dense_model_generates():
    model = build("llama")
    ids = tokens(batch=2, length=6)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    asked = {"attention_mask": mask, "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    dense = model.generate(ids, **asked)
    assert torch.equal(upcycle(model, 4, TopK(2)).generate(ids, **asked), dense)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"experts": 0}, "experts"),
        ({"experts": 10**6}, "experts"),
        ({"noise": -0.1}, "noise"),
        ({"noise": float("nan")}, "noise"),
        ({"layers": [2]}, "layers"),
        ({"layers": []}, "layers"),
        ({"experts": 1, "gate": TopK(2)}, "k"),
    ],
)
def test_a_number_without_sense_is_refused_and_the_model_left_alone(changes, named):
    model = build("llama")
    with pytest.raises(BadInputError) as caught:
        upcycle(model, **changes)
    assert caught.value.where == named
    assert type(model.model.layers[0].mlp).__name__ == "LlamaMLP"


def test_one_expert_is_the_dense_model():
    model = build("llama")
    dense = outputs(model)
    torch.testing.assert_close(outputs(upcycle(model, 1, Adaptive())), dense, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("kind", "changes"), [("mixtral", {}), ("llama", {"hidden_act": "tanh"})])
def test_another_family_or_activation_is_refused(kind, changes):
    with pytest.raises(UnsupportedError):
        upcycle(build(kind, **changes))
