"""No accepted set ever costs more than the budget, whatever the costs do when they come together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.core.errors import BadInputError
from quiltwork.core.names import ModelRef
from quiltwork.zoo import Part
from quiltwork.zoo.equivalence import UNCHANGED, Budget, Quality, Swap, decide, substituted
from quiltwork.zoo.manifest import make_block


def swap(part: str, saved: int = 100, *, exact: bool = False, variant: int = 0) -> Swap:
    ours, theirs = (make_block("ffn", {"which": which}, []) for which in ("ours", f"theirs {variant}"))
    return Swap(Part(part, ours), Part(part, theirs), ModelRef("base"), 0.99, exact, saved)


class Costs:
    """What each swap costs alone; together the sum, and ``extra`` nats for every pair of them."""

    def __init__(self, alone: dict[int, tuple[float, float]], swaps: Sequence[Swap], extra: float = 0.0) -> None:
        self.alone, self.swaps, self.extra, self.calls = alone, swaps, extra, 0

    def __call__(self, chosen: Sequence[Swap]) -> Quality:
        self.calls += 1
        assert len({one.part for one in chosen}) == len(chosen), "a part is replaced once"
        costs = [self.alone[self.swaps.index(one)] for one in chosen if not one.exact]
        pairs = len(costs) * (len(costs) - 1) / 2
        delta = sum(cost for cost, _ in costs) + self.extra * pairs
        return Quality(delta, abs(delta), max(0.0, 1.0 - sum(lost for _, lost in costs)))


@st.composite
def settings_of_costs(draw: st.DrawFn) -> tuple[list[Swap], dict[int, tuple[float, float]], float]:
    count = draw(st.integers(0, 7))
    swaps = [
        swap(f"part {draw(st.integers(0, 4))}", draw(st.integers(0, 1000)), exact=draw(st.booleans()), variant=i)
        for i in range(count)
    ]
    costs = {i: (draw(st.floats(-0.01, 0.1)), draw(st.floats(0.0, 0.05))) for i in range(count)}
    return swaps, costs, draw(st.floats(0.0, 0.05))


budgets = st.floats(0.0, 0.3)


@given(settings_of_costs(), budgets, st.floats(0.5, 1.0))
def test_what_is_returned_was_measured_together_and_is_within_the_budget(given_, delta, agreement):
    swaps, costs, extra = given_
    measure = Costs(costs, swaps, extra)
    decision = decide(swaps, Budget(delta, agreement), measure)
    chosen = [taken.swap for taken in decision.taken]
    together = measure(chosen)
    assert decision.quality == together
    assert together.delta_loss <= delta
    assert all(taken.total.delta_loss <= delta and taken.total.agreement >= agreement for taken in decision.taken)
    if decision.quality != UNCHANGED:
        assert together.agreement >= agreement
    assert decision.saved_bytes == sum(one.saved_bytes for one in chosen)


@given(st.data())
@settings(max_examples=50)
def test_a_measurement_without_any_rule_is_never_exceeded(data):
    swaps = [swap(f"part {i}", 10 * (i + 1)) for i in range(5)]
    figures: dict[frozenset[str], Quality] = {}

    def measure(chosen: Sequence[Swap]) -> Quality:
        key = frozenset(one.part for one in chosen)
        if key not in figures:
            delta = data.draw(st.floats(-1, 1) | st.just(math.nan) | st.just(math.inf))
            figures[key] = Quality(delta, 0.0, data.draw(st.floats(0.9, 1.0) | st.just(math.nan)))
        return figures[key]

    decision = decide(swaps, Budget(0.25, 0.95), measure)
    if decision.taken:
        figure = figures[frozenset(taken.swap.part for taken in decision.taken)]
        assert decision.quality == figure
        assert figure.delta_loss <= 0.25
        assert figure.agreement >= 0.95


@given(settings_of_costs())
def test_without_a_budget_nothing_that_differs_is_taken_or_even_measured(given_):
    swaps, costs, extra = given_
    measure = Costs(costs, swaps, extra)
    decision = decide(swaps, Budget(), measure)
    assert all(taken.swap.exact for taken in decision.taken)
    assert {taken.swap.part for taken in decision.taken} == {one.part for one in swaps if one.exact}
    assert (measure.calls, decision.quality) == (0, UNCHANGED)


@given(settings_of_costs(), budgets, budgets)
def test_a_larger_budget_never_saves_less(given_, a, b):
    swaps, costs, extra = given_
    less, more = (decide(swaps, Budget(x, 0.9), Costs(costs, swaps, extra)) for x in sorted((a, b)))
    assert more.saved_bytes >= less.saved_bytes


def test_errors_that_add_up_stop_it():
    swaps = [swap("a"), swap("b"), swap("c")]
    costs = dict.fromkeys(range(3), (0.004, 0.0))
    assert len(decide(swaps, Budget(0.01), Costs(costs, swaps)).taken) == 2
    assert len(decide(swaps, Budget(0.01), Costs(costs, swaps, extra=0.003)).taken) == 1
    assert len(decide(swaps, Budget(0.02), Costs(costs, swaps)).taken) == 3


def test_most_bytes_per_nat_first_and_singles_beyond_the_budget_never():
    swaps = [swap("dear", 100), swap("cheap", 90), swap("ruinous", 10_000)]
    costs = {0: (0.009, 0.0), 1: (0.001, 0.0), 2: (0.5, 0.0)}
    decision = decide(swaps, Budget(0.0095), Costs(costs, swaps))
    assert [taken.swap.part for taken in decision.taken] == ["dear"], "alone it saves more than the better ratio"
    decision = decide(swaps, Budget(0.01), Costs(costs, swaps))
    assert [taken.swap.part for taken in decision.taken] == ["cheap", "dear"]
    assert decision.taken[1].alone.delta_loss == 0.009
    assert decision.taken[1].total.delta_loss == pytest.approx(0.01)


def test_disagreement_alone_refuses_a_swap_that_costs_no_loss():
    swaps = [swap("a"), swap("b")]
    decision = decide(swaps, Budget(1.0), Costs({0: (-0.1, 0.04), 1: (0.0, 0.02)}, swaps))
    assert [taken.swap.part for taken in decision.taken] == ["b"]


def test_of_two_candidates_for_a_part_the_one_that_fits_is_taken():
    swaps = [swap("a", 100, variant=1), swap("a", 90, variant=2)]
    decision = decide(swaps, Budget(0.01), Costs({0: (0.02, 0.0), 1: (0.005, 0.0)}, swaps))
    assert [taken.swap.saved_bytes for taken in decision.taken] == [90]


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_a_budget_is_a_number_of_nats(value):
    with pytest.raises(BadInputError, match="budget"):
        Budget(value)


def test_substituted_parts_keep_their_places():
    one = swap("b")
    parts = (Part("a", one.original.block), one.original)
    assert substituted(parts, [one]) == (parts[0], one.replacement)
