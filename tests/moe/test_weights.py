"""Weights of what is chosen, and their gradient, compiled against what float64 and autograd make of the formula."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quiltwork.core.errors import BadInputError
from quiltwork.moe.weights import weights_of


def divided(probabilities: Tensor, experts: Tensor, chosen: Tensor) -> Tensor:
    """Token by token; one alone is divided by what it is itself, without gradient."""
    rows = []
    for values, at, mask in zip(probabilities, experts, chosen, strict=True):
        taken = values[at[mask]]
        total = taken.sum() if mask.sum() > 1 else taken.sum().detach()
        rows.append(torch.stack([values[e] / total if m else 0 * values[e] for e, m in zip(at, mask, strict=True)]))
    return torch.stack(rows)


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_they_and_their_gradient_are_the_formulas(tokens: int, most: int, seed: int) -> None:
    torch.manual_seed(seed)
    probabilities = torch.softmax(torch.randn(tokens, 5), -1).requires_grad_()
    exact = probabilities.detach().double().requires_grad_()
    experts = torch.stack([torch.randperm(5)[:most] for _ in range(tokens)])
    chosen = torch.rand(tokens, most) < 0.5
    ours, theirs = weights_of(probabilities, experts, chosen, "sum_to_one"), divided(exact, experts, chosen)
    assert torch.allclose(ours[chosen].double(), theirs[chosen], atol=1e-6)
    pull = torch.randn(tokens, most) * chosen
    ours.backward(pull)
    theirs.backward(pull.double())
    assert probabilities.grad is not None
    assert exact.grad is not None
    assert torch.allclose(probabilities.grad.double(), exact.grad, atol=1e-5)


def test_one_alone_weighs_one_and_pulls_at_its_router() -> None:
    probabilities = torch.tensor([[0.2, 0.8]], requires_grad=True)
    weights = weights_of(probabilities, torch.tensor([[1, 0]]), torch.tensor([[True, False]]), "sum_to_one")
    assert weights[0, 0] == 1
    weights[0, 0].backward()
    assert probabilities.grad is not None
    assert probabilities.grad.tolist() == [[0.0, pytest.approx(1 / 0.8)]]


def test_raw_ones_are_the_probabilities() -> None:
    probabilities = torch.tensor([[0.2, 0.8]])
    assert weights_of(probabilities, torch.tensor([[1, 0]]), torch.tensor([[True, False]]), "raw").tolist() == [
        [pytest.approx(0.8), pytest.approx(0.2)]
    ]


def test_other_kinds_are_refused() -> None:
    with pytest.raises(BadInputError, match="raw"):
        weights_of(torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.bool), "even")
