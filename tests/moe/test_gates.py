"""What each gate takes, with which weights, and what it refuses."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quiltwork.core.errors import BadInputError
from quiltwork.moe import Adaptive, ExpertChoice, Gate, NullExperts, RandomSecond, Routing, TopK, TopP

GATES: list[Gate] = [
    TopK(1), TopK(2), TopK(4), Adaptive(), Adaptive(0.2, most=4, reading="pair"), RandomSecond(0.5), TopP(),
    TopP(0.9, 2), TopP(normalise=1.0), NullExperts(3, 4), ExpertChoice(2.0),
]  # fmt: skip


def taken(routing: Routing) -> list[list[int]]:
    """Each token's experts, ascending."""
    lists: list[list[int]] = [[] for _ in range(routing.tokens)]
    for token, expert in zip(routing.token.tolist(), routing.expert.tolist(), strict=True):
        lists[token].append(expert)
    return lists


def logits_of(*rows: list[float]) -> Tensor:
    """Whose softmax the rows are."""
    return torch.tensor(rows, dtype=torch.float64).log()


@st.composite
def logits(draw: st.DrawFn) -> Tensor:
    """Any number of tokens, 4 experts, ties among them."""
    values = st.sampled_from([-3.0, -1.0, 0.0, 0.5, 0.5, 2.0])
    return torch.tensor(
        draw(st.lists(st.lists(values, min_size=4, max_size=4), max_size=9)), dtype=torch.float32
    ).reshape(-1, 4)


@pytest.mark.parametrize("gate", GATES, ids=repr)
@given(logits(), st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
@settings(max_examples=25, deadline=None)
def test_a_routing_is_sorted_by_expert_and_takes_each_pair_once(gate: Gate, given: Tensor, dtype: torch.dtype) -> None:
    wide = torch.cat([given, given[:, : gate.width(4) - 4]], 1).to(dtype)
    routing = gate(wide)
    pairs = list(zip(routing.expert.tolist(), routing.token.tolist(), strict=True))
    assert pairs == sorted(set(pairs))
    assert routing.offsets.tolist() == [sum(e < border for e, _ in pairs) for border in range(5)]
    assert routing.weight.dtype == routing.probabilities.dtype == torch.float32
    assert routing.tokens == len(given)


@pytest.mark.parametrize("gate", GATES, ids=repr)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_logit_that_is_no_number_is_refused_naming_its_token(gate: Gate, bad: float) -> None:
    broken = torch.zeros(5, gate.width(4))
    broken[3, 1] = bad
    with pytest.raises(BadInputError, match="token 3"):
        gate(broken)


def test_huge_logits_are_numbers_though_their_sum_is_not() -> None:
    assert taken(TopK(1)(torch.full((3, 4), 3e38))) == [[0], [0], [0]]


def test_with_one_expert_every_gate_takes_it_with_weight_one() -> None:
    for gate in (TopK(1), Adaptive(), Adaptive(1.0), RandomSecond(0.0), TopP(), ExpertChoice(1.0)):
        routing = gate(torch.randn(7, gate.width(1)))
        assert taken(routing) == [[0]] * 7
        assert routing.weight.tolist() == [1.0] * 7


@pytest.mark.parametrize("gate", [TopK(2), Adaptive(0.0), Adaptive(1.0), TopP(0.5, 2), RandomSecond(1.0)], ids=repr)
def test_of_equals_the_lower_index_is_taken_first(gate: Gate) -> None:
    assert taken(gate(torch.zeros(3, 4))) == [[0, 1]] * 3


def test_wide_routers_are_sorted_as_narrow_ones_are_searched() -> None:
    tied = torch.randint(0, 3, (20, 300)).float()
    wanted = torch.sort(tied.softmax(-1), dim=-1, descending=True, stable=True).indices
    for k in (1, 2, 8):
        assert taken(TopK(k)(tied)) == [sorted(row[:k]) for row in wanted.tolist()]


def test_the_readings_of_the_gap_differ() -> None:
    spread = logits_of([0.3, 0.2, 0.25, 0.25])
    assert taken(Adaptive(0.06)(spread)) == [[0, 2]]
    assert taken(Adaptive(0.06, reading="pair")(spread)) == [[0]]  # .05 of .55


def test_a_fresh_router_takes_two_experts_for_every_token_in_the_first_reading() -> None:
    fresh = torch.randn(200, 16) * 0.02
    assert Adaptive(0.1)(fresh).experts_per_token().tolist() == [2] * 200


def test_further_experts_are_added_while_the_gap_allows() -> None:
    spread = logits_of([0.35, 0.30, 0.2, 0.15])
    counts = [len(taken(Adaptive(t, most=4)(spread))[0]) for t in (-1.0, 0.0, 0.06, 0.16, 0.21, 1.0)]
    assert counts == [1, 1, 2, 3, 4, 4]
    assert taken(Adaptive(1.0, most=3)(spread)) == [[0, 1, 2]]


def test_threshold_most_and_p_may_be_set_token_by_token() -> None:
    same = torch.zeros(4, 4) + logits_of([0.4, 0.3, 0.2, 0.1]).float()
    most, threshold = torch.tensor([1, 2, 3, 4]), torch.tensor([1.0, -1.0, 0.2, 1.0])
    assert [len(each) for each in taken(Adaptive(threshold, most)(same))] == [1, 1, 3, 4]
    assert [len(each) for each in taken(TopP(torch.tensor([0.0, 0.41, 0.71, 1.0]))(same))] == [1, 2, 3, 4]
    with pytest.raises(BadInputError, match="4 tokens"):
        Adaptive(threshold[:3])(same)
    with pytest.raises(BadInputError, match="threshold"):
        Adaptive(float("nan"))(same)


def test_top_p_takes_the_smallest_set_that_holds_p() -> None:
    spread = logits_of([0.125, 0.5, 0.25, 0.125])
    sets = {p: taken(TopP(p)(spread))[0] for p in (0.0, 0.5, 0.51, 0.75, 0.8, 1.0)}
    assert sets == {0.0: [1], 0.5: [1], 0.51: [1, 2], 0.75: [1, 2], 0.8: [0, 1, 2], 1.0: [0, 1, 2, 3]}
    assert taken(TopP(0.99, most=2)(spread)) == [[1, 2]]


def test_normalised_logits_cost_as_much_however_sharp_the_router_is() -> None:
    some = torch.randn(50, 8)
    gate = TopP(0.6, normalise=1.5)
    assert taken(gate(some)) == taken(gate(some * 7 + 3))
    assert taken(TopP(0.6)(some)) != taken(TopP(0.6)(some * 7))


def test_null_experts_cost_no_row_and_a_token_may_take_none_but_them() -> None:
    routing = NullExperts(2, 2)(logits_of([0.1, 0.2, 0.3, 0.4], [0.6, 0.1, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1]))
    assert taken(routing) == [[], [0], [0, 1]]
    assert routing.load.tolist() == [2, 1]
    assert routing.weight.tolist() == pytest.approx([1.0, 4 / 7, 3 / 7])


def test_experts_choose_as_many_tokens_each_and_each_sequence_apart() -> None:
    some = torch.randn(24, 4)
    assert ExpertChoice(2.0)(some).load.tolist() == [12] * 4
    apart = ExpertChoice(2.0, lengths=(8, 16))(some)
    alone = ExpertChoice(2.0)(some[:8])
    assert taken(apart)[:8] == taken(alone)


def test_an_expert_s_choice_of_a_token_depends_on_later_ones() -> None:
    earlier = torch.zeros(4, 2)
    later = torch.cat([earlier, torch.tensor([[9.0, -9.0], [-9.0, 9.0]] * 2)])
    assert taken(ExpertChoice(0.5)(earlier)) == [[0, 1], [], [], []]
    assert taken(ExpertChoice(0.5)(later))[:4] == [[], [], [], []]


def test_random_second_experts_are_as_many_as_asked_for_and_those_of_the_lowest_draws() -> None:
    some, draws = torch.randn(8, 4), torch.tensor([0.9, 0.1, 0.5, 0.4, 0.8, 0.2, 0.7, 0.6])
    assert RandomSecond(0.375, draws)(some).experts_per_token().tolist() == [1, 2, 1, 2, 1, 2, 1, 1]
    seeded = RandomSecond(0.5, 3)
    assert taken(seeded(some)) == taken(seeded(some))
    source = RandomSecond(0.5, torch.Generator().manual_seed(0))
    assert taken(source(some)) != taken(source(some))


def test_weights_are_the_softmax_or_sum_to_one() -> None:
    spread = logits_of([0.5, 0.3, 0.2], [0.8, 0.1, 0.1])
    raw, summed = (Adaptive(0.25, weights=kind)(spread) for kind in ("raw", "sum_to_one"))
    assert raw.weight.tolist() == pytest.approx([0.5, 0.8, 0.3])
    assert summed.weight.tolist() == pytest.approx([5 / 8, 1.0, 3 / 8])


@pytest.mark.parametrize("weights", ["raw", "sum_to_one"])
@pytest.mark.parametrize("gate", [TopK(1), Adaptive(-1.0), RandomSecond(0.0), TopP(0.0), NullExperts(1, 0)], ids=repr)
def test_a_router_learns_from_tokens_with_a_single_expert(gate: TopK, weights: str) -> None:
    given = torch.randn(6, 4, requires_grad=True)
    routing = replace(gate, weights=weights)(given)
    (routing.weight * torch.randn(6)).sum().backward()
    assert given.grad is not None
    assert bool((given.grad.norm(dim=1) > 0).all())


@pytest.mark.parametrize(
    "gate",
    [
        lambda: TopK(5), lambda: TopK(0), lambda: TopK(2, weights="half"), lambda: Adaptive(most=0),
        lambda: Adaptive(reading="third"), lambda: RandomSecond(1.5), lambda: TopP(most=0),
        lambda: TopP(normalise=-1.0), lambda: NullExperts(9, 4), lambda: NullExperts(1, -1),
        lambda: ExpertChoice(0.0), lambda: ExpertChoice(5.0),
    ],
)  # fmt: skip
def test_a_gate_that_cannot_be_is_refused_when_a_layer_is_made(gate: Callable[[], Gate]) -> None:
    with pytest.raises(BadInputError):
        gate().width(4)
