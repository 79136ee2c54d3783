"""Sparse models of others, run by our layer on their own weights."""

from __future__ import annotations

import pytest
import torch
from tiny_sparse import build, outputs, tokens

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.moe import Adaptive, TopK, adopt, record_routing, set_gates, sparse_blocks

SPARSE = [
    ("mixtral", {}),
    ("mixtral", {"num_experts_per_tok": 1}),
    ("qwen2_moe", {"norm_topk_prob": False}),
    ("qwen2_moe", {"norm_topk_prob": True, "decoder_sparse_step": 2}),
    ("qwen3_moe", {"norm_topk_prob": True}),
    ("olmoe", {"norm_topk_prob": False}),
    ("olmoe", {"norm_topk_prob": True, "num_experts_per_tok": 8}),
]


@pytest.mark.parametrize(("kind", "changes"), SPARSE)
def test_with_its_fixed_number_of_experts_its_logits_are_transformers(kind, changes):
    model = build(kind, **changes)
    theirs = outputs(model)
    torch.testing.assert_close(outputs(adopt(model)), theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("kind", "changes"), SPARSE)
def test_a_threshold_of_one_is_the_fixed_number_to_the_bit_and_one_below_zero_a_single_expert(kind, changes):
    model = adopt(build(kind, **changes))
    most = model.config.num_experts_per_tok
    fixed = outputs(model)
    set_gates(model, Adaptive(threshold=1.0, most=most))
    assert torch.equal(outputs(model), fixed)
    set_gates(model, Adaptive(threshold=-1.0, most=most))
    with record_routing(model) as routings:
        single = outputs(model)
    assert all(set(found[0].experts_per_token().tolist()) == {1} for found in routings.values())
    set_gates(model, TopK(1))
    assert torch.equal(outputs(model), single)


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe", "olmoe"])
def test_one_expert_by_a_threshold_below_zero_is_transformers_with_one_expert_per_token(kind):
    theirs = outputs(build(kind, num_experts_per_tok=1))
    ours = adopt(build(kind), Adaptive(threshold=-1.0, most=4))
    torch.testing.assert_close(outputs(ours), theirs, atol=1e-4, rtol=0)


def test_qwens_dense_layers_stay_and_its_shared_expert_is_kept_behind_its_sigmoid():
    model = build("qwen2_moe")
    shared = model.model.layers[0].mlp.shared_expert
    adopt(model)
    assert list(sparse_blocks(model)) == [0, 2, 3]
    assert type(model.model.layers[1].mlp).__name__ == "Qwen2MoeMLP"
    layer = sparse_blocks(model)[0].layer
    assert layer.shared.expert is shared
    x = torch.randn(7, 32)
    without = layer.experts(x, layer.gate(x @ layer.router.T))
    gated = torch.sigmoid(layer.shared.gate(x)) * shared(x)
    torch.testing.assert_close(layer(x)[0], without + gated)


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe", "olmoe"])
def test_the_weights_are_shared_not_copied(kind):
    model = build(kind)
    block = model.model.layers[0].mlp
    layer = sparse_blocks(adopt(model))[0].layer
    assert layer.experts.up is block.experts.gate_up_proj
    assert layer.experts.down is block.experts.down_proj
    assert layer.router is block.gate.weight


def test_any_gate_keeps_the_kind_of_weights_that_the_model_was_trained_with_unless_told():
    model = adopt(build("olmoe", norm_topk_prob=False), Adaptive(most=4))
    assert {block.layer.gate.weights for block in sparse_blocks(model).values()} == {"raw"}
    set_gates(model, Adaptive(most=4), weights="sum_to_one")
    assert {block.layer.gate.weights for block in sparse_blocks(model).values()} == {"sum_to_one"}


def test_layers_may_have_gates_of_their_own():
    model = adopt(build("mixtral"), Adaptive(threshold=-1.0))
    set_gates(model, {1: Adaptive(threshold=1.0)})
    with record_routing(model) as routings:
        outputs(model)
    assert [set(found[0].experts_per_token().tolist()) for found in routings.values()] == [{1}, {2}]


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe"])
def test_padding_takes_no_expert_and_changes_no_tokens_logits(kind):
    model = build(kind)
    ids, mask = tokens(), torch.ones(3, 12, dtype=torch.int64)
    mask[1, :3], mask[2, :7] = 0, 0
    theirs = outputs(model, ids, attention_mask=mask)
    adopt(model)
    with record_routing(model) as routings:
        ours = outputs(model, ids, attention_mask=mask)
    torch.testing.assert_close(ours[mask == 1], theirs[mask == 1], atol=1e-4, rtol=0)
    assert {found[0].tokens for found in routings.values()} == {26}


def test_a_batch_of_nothing_but_padding_is_no_error():
    model = adopt(build("mixtral"))
    mask = torch.zeros(3, 12, dtype=torch.int64)
    with record_routing(model) as routings:
        outputs(model, tokens(), attention_mask=mask)
    assert routings[0][0].tokens == 0


def test_what_is_not_sparse_or_not_there_is_refused():
    with pytest.raises(UnsupportedError):
        adopt(build("llama"))
    model = adopt(build("mixtral"))
    with pytest.raises(BadInputError, match="no sparse layer"):
        set_gates(model, {2: TopK(1)})
    with pytest.raises(UnsupportedError, match="record_routing"):
        model(tokens(), output_router_logits=True)
    with pytest.raises(BadInputError, match="cannot be taken"):
        set_gates(model, TopK(6))
    with pytest.raises(BadInputError, match="no mixture"):
        sparse_blocks(torch.nn.Linear(1, 1))
