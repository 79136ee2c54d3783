"""The kernel against a loop over tokens in float64: any counts, any activation, its gradient, and what it refuses."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.layers.activation import ACTIVATIONS
from quiltwork.moe import Experts, Routing
from quiltwork.moe.routing import routing_of

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 4e-2}


def routing(taken: list[list[int]], experts: int) -> Routing:
    """Each token's experts, with weights that have a gradient."""
    most = max(map(len, taken), default=0) or 1
    candidates = torch.tensor([row + [0] * (most - len(row)) for row in taken], dtype=torch.int64).reshape(-1, most)
    chosen = torch.tensor([[place < len(row) for place in range(most)] for row in taken], dtype=torch.bool).reshape(
        -1, most
    )
    weights = torch.rand(len(taken), most, dtype=torch.float32, requires_grad=True)
    return routing_of(candidates, weights, chosen, torch.rand(len(taken), experts))


def loop(experts: Experts, x: Tensor, routed: Routing) -> Tensor:
    """Token by token, as one would write it down."""
    act = ACTIVATIONS[experts.activation]
    nothing = sum(0 * p.sum() for p in (x, routed.weight, *experts.parameters()))  # so that all have a gradient
    out = [0 * row + nothing for row in x]
    for token, e, weight in zip(routed.token.tolist(), routed.expert.tolist(), routed.weight, strict=True):
        up, down = (None if b is None else b[e] for b in (experts.up_bias, experts.down_bias))
        raised = nn.functional.linear(x[token], experts.up[e], up)
        if experts.gated:
            gate, raised = raised.chunk(2)
            hidden = act(gate) * raised
        else:
            hidden = act(raised)
        out[token] = out[token] + weight.to(x.dtype) * nn.functional.linear(hidden, experts.down[e], down)
    return torch.stack(out) if out else x + nothing


def made(count: int, width: int, inner: int, *, gated: bool, activation: str, bias: bool) -> Experts:
    experts = Experts(count, width, inner, gated=gated, activation=activation, bias=bias)
    for parameter in experts.parameters():
        nn.init.normal_(parameter, std=0.5)
    return experts


def gradients(y: Tensor, wrt: list[Tensor]) -> list[Tensor]:
    """Of a sum that weighs every entry differently; None would be an error."""
    torch.manual_seed(5)
    return list(torch.autograd.grad(y, wrt, torch.randn(y.shape).to(y.dtype)))


def check(experts: Experts, x: Tensor, routed: Routing, dtype: torch.dtype) -> None:
    experts = experts.to(dtype)
    x = x.to(dtype).requires_grad_()
    exact = Experts.__new__(Experts)
    exact.__dict__.update(experts.__dict__)
    exact._parameters = {
        name: None if p is None else nn.Parameter(p.detach().double()) for name, p in experts._parameters.items()
    }
    exact_x = x.detach().double().requires_grad_()
    y, expected = experts(x, routed), loop(exact, exact_x, routed)
    near(y, expected, dtype)
    ours = gradients(y, [x, routed.weight, *experts.parameters()])
    theirs = gradients(expected.to(dtype).to(expected.dtype), [exact_x, routed.weight, *exact.parameters()])
    for a, b in zip(ours, theirs, strict=True):
        near(a, b, dtype)


def near(ours: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    ours, exact = ours.detach(), exact.detach()
    tolerance = max(TOLERANCE[dtype], TOLERANCE[ours.dtype])
    scale = max(1.0, float(exact.abs().max())) if exact.numel() else 1.0
    assert ours.shape == exact.shape
    assert float((ours.double() - exact.double()).abs().max() if exact.numel() else 0.0) <= tolerance * scale


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[list[int]], int, int, int]:
    """Any number of tokens, also none; for each any set of experts, also an empty one; widths nothing is aligned to."""
    experts = draw(st.integers(1, 6))
    one = st.lists(st.integers(0, experts - 1), unique=True, max_size=experts)
    return draw(st.lists(one, max_size=12)), experts, draw(st.integers(1, 9)), draw(st.integers(1, 9))


@given(
    cases(),
    st.sampled_from(sorted(ACTIVATIONS)),
    st.booleans(),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
@settings(max_examples=120, deadline=None)
def test_it_is_the_loop_over_tokens(
    case: tuple[list[list[int]], int, int, int], activation: str, gated: bool, bias: bool, dtype: torch.dtype
) -> None:
    taken, count, width, inner = case
    assume(dtype != torch.bfloat16 or activation != "relu")  # rounding moves values over the kink
    torch.manual_seed(len(taken))
    experts = made(count, width, inner, gated=gated, activation=activation, bias=bias)
    check(experts, torch.randn(len(taken), width), routing(taken, count), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("counts", [[0, 70, 0, 0], [1, 0, 0, 69], [64, 1, 5, 0]])
def test_skewed_loads_of_many_tokens_are_the_loop_too(counts: list[int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    experts = made(4, 24, 20, gated=True, activation="silu", bias=False)
    taken = [[e] for e, count in enumerate(counts) for _ in range(count)]
    check(experts, torch.randn(len(taken), 24), routing(taken, 4), dtype)


def test_a_gradient_is_the_same_when_asked_for_twice() -> None:
    torch.manual_seed(0)
    experts = made(3, 8, 12, gated=False, activation="relu", bias=False)
    x = torch.randn(5, 8, requires_grad=True)
    y = experts(x, routing([[0], [0, 2], [], [2], [0]], 3)).sum()
    first = torch.autograd.grad(y, [x, *experts.parameters()], retain_graph=True)
    second = torch.autograd.grad(y, [x, *experts.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="known: silu"):
        Experts(2, 8, 8, gated=False, activation="sine")
    experts = made(2, 8, 8, gated=False, activation="relu", bias=False)
    for x in (torch.randn(3, 8).bfloat16(), torch.randn(3, 7)):
        with pytest.raises(BadInputError, match=r"x: is torch\."):
            experts(x, routing([[0]] * 3, 2))
