"""The kernel against a loop over tokens in float64: any counts, any activation, its gradient, and what it refuses."""

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

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
