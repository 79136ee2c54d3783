"""One ragged layer for all gates: what it computes, what it costs, and that a threshold of 1 is top-2 to the bit."""

import pytest
import torch
from torch import nn

from quiltwork.core.errors import BadInputError
from quiltwork.moe import Adaptive, ExpertChoice, Experts, Gate, MoELayer, NullExperts, RandomSecond, TopK, TopP


def layer(gate: Gate, *, experts: int = 4) -> MoELayer:
    torch.manual_seed(0)
    made = MoELayer(Experts(experts, 8, 16, gated=True, activation="silu"), gate)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made


def outcome(gate: Gate, tokens: int = 33) -> list[torch.Tensor]:
    made = layer(gate)
    x = torch.randn(tokens, 8, requires_grad=True)
    y, _ = made(x)
    y.square().sum().backward()
    return [y, x.grad, *(parameter.grad for parameter in made.parameters())]


@pytest.mark.parametrize("k", [2, 4])
def test_a_threshold_of_one_is_top_k_to_the_bit(k: int) -> None:
    ours, theirs = outcome(Adaptive(threshold=1.0, most=k)), outcome(TopK(k))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_threshold_below_zero_is_top_1_to_the_bit_and_its_router_learns() -> None:
    ours, top1 = outcome(Adaptive(threshold=-1.0)), outcome(TopK(1))
    assert all(torch.equal(a, b) for a, b in zip(ours, top1, strict=True))
    made = layer(Adaptive(threshold=-1.0))
    y, routing = made(torch.randn(9, 8))
    y.square().sum().backward()
    assert routing.experts_per_token().tolist() == [1] * 9
    assert made.router.grad is not None
    assert made.router.grad.norm() > 0


@pytest.mark.parametrize("gate", [TopP(0.6), RandomSecond(0.3), NullExperts(3, 4), ExpertChoice(1.5)], ids=repr)
def test_every_gate_runs_in_it_and_the_same_call_gives_the_same_bits(gate: Gate) -> None:
    once, again = outcome(gate), outcome(gate)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert all(bool(torch.isfinite(each).all()) for each in once)


@pytest.mark.parametrize("tokens", [0, 1])
def test_no_token_and_one_token_have_gradients_of_every_weight(tokens: int) -> None:
    for gradient in outcome(Adaptive(), tokens)[1:]:
        assert gradient is not None
        assert bool(torch.isfinite(gradient).all())


def test_experts_without_a_token_get_zeros_for_a_gradient() -> None:
    made = layer(TopK(1))
    with torch.no_grad():
        made.router.zero_()  # all alike: everything goes to the first
    made(torch.randn(5, 8))[0].sum().backward()
    for weights in (made.experts.up.grad, made.experts.down.grad):
        assert weights is not None
        assert weights[0].norm() > 0
        assert not weights[1:].any()


def test_only_what_is_routed_enters_the_matrix_products(monkeypatch: pytest.MonkeyPatch) -> None:
    entered = 0
    through = torch.mm

    def counting(a: torch.Tensor, b: torch.Tensor, **options: torch.Tensor) -> torch.Tensor:
        nonlocal entered
        entered += len(a)
        return through(a, b, **options)

    monkeypatch.setattr(torch, "mm", counting)
    x, rows = torch.randn(33, 8), []
    for gate in (Adaptive(-1.0), Adaptive(0.3), Adaptive(1.0)):
        entered = 0
        with torch.no_grad():
            _, routing = layer(gate)(x)
        assert entered == 2 * len(routing.token)  # once upwards, once downwards
        rows.append(entered)
    assert rows[0] == 2 * 33 < rows[1] < rows[2] == 4 * 33


def test_what_is_shared_is_added_for_every_token() -> None:
    made = layer(NullExperts(1, 4))
    x = torch.randn(40, 8)
    alone, routing = made(x)
    made.shared = nn.Linear(8, 8)
    together, _ = made(x)
    torch.testing.assert_close(together, alone + made.shared(x))
    assert len(routing.token) < 40
    assert not alone[routing.experts_per_token() == 0].any()


def test_jitter_moves_what_is_decided_in_training_only() -> None:
    def counts(made: MoELayer) -> list[int]:
        return [int(made(x)[1].experts_per_token().sum()) for _ in range(3)]

    def jittered(seed: int) -> MoELayer:
        made = MoELayer(plain.experts, plain.gate, jitter=0.5, generator=torch.Generator().manual_seed(seed))
        made.router = plain.router
        return made

    plain, x = layer(Adaptive(0.3)), torch.randn(200, 8)
    expected = counts(plain)
    assert counts(jittered(0).eval()) == expected
    assert counts(jittered(0)) != expected
    assert counts(jittered(0)) == counts(jittered(0))
    assert counts(jittered(0)) != counts(jittered(1))
    with pytest.raises(BadInputError, match="generator"):
        MoELayer(plain.experts, plain.gate, jitter=0.5)


def test_a_single_expert_is_a_feed_forward_layer() -> None:
    made = layer(Adaptive(), experts=1)
    x = torch.randn(6, 8)
    gate, up = nn.functional.linear(x, made.experts.up[0]).chunk(2, -1)
    dense = nn.functional.linear(nn.functional.silu(gate) * up, made.experts.down[0])
    torch.testing.assert_close(made(x)[0], dense)
