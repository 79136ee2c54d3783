"""One ragged layer for all gates: what it computes, and that a threshold of 1 is top-2 to the bit."""

import torch

from quiltwork.moe import Adaptive, Experts, Gate, MoELayer, TopK


def layer(gate: Gate) -> MoELayer:
    torch.manual_seed(0)
    made = MoELayer(Experts(4, 8, 16, gated=True, activation="silu"), gate)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made


def outcome(gate: Gate) -> list[torch.Tensor]:
    made = layer(gate)
    x = torch.randn(33, 8, requires_grad=True)
    y, _ = made(x)
    y.square().sum().backward()
    return [y, x.grad, *(parameter.grad for parameter in made.parameters())]


def test_a_threshold_of_one_is_top_2_to_the_bit() -> None:
    assert all(torch.equal(a, b) for a, b in zip(outcome(Adaptive(threshold=1.0)), outcome(TopK(2)), strict=True))


def test_a_threshold_below_zero_is_top_1_to_the_bit_and_its_router_learns() -> None:
    ours, top1 = outcome(Adaptive(threshold=-1.0)), outcome(TopK(1))
    assert all(torch.equal(a, b) for a, b in zip(ours, top1, strict=True))
    made = layer(Adaptive(threshold=-1.0))
    y, routing = made(torch.randn(9, 8))
    y.square().sum().backward()
    assert routing.experts_per_token().tolist() == [1] * 9
    assert made.router.grad is not None
    assert made.router.grad.norm() > 0
