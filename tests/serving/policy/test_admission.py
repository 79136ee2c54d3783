"""A new request goes where it and those who are there together lose least."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.serving.policy.admission import Coming, InUse, Spot, admit, expected_tokens, price, step_seconds
from quiltwork.serving.policy.cost import CostTable, SegmentProfile

# Up to 64 rows cost what one costs: reading the weights.
FLAT = SegmentProfile(CostTable((1, 64, 128), (0.01, 0.01, 0.02)))
LOWER, UPPER, OTHER = ("lower",), ("upper",), ("other",)


def used(sequences: int, profile: SegmentProfile = FLAT, prompt_rows: int = 0) -> InUse:
    return InUse(profile, sequences, 0.0, prompt_rows)


def coming(*route: tuple[str, ...], rows: int = 1, tokens: float = 100) -> Coming:
    return Coming([(instance, FLAT) for instance in route], rows, tokens, 64)


def test_a_step_runs_every_segment_in_use_once() -> None:
    assert step_seconds({LOWER: used(5), UPPER: used(2), OTHER: used(0)}) == pytest.approx(0.02)


def test_company_at_the_same_segments_costs_nothing_and_strangers_cost_both_sides() -> None:
    friends, strangers = Spot("a", {LOWER: used(5)}, 5), Spot("b", {OTHER: used(5)}, 5)
    # 100 steps of 10 ms for itself; five others lose nothing.
    assert price(friends, coming(LOWER)) == pytest.approx(1.0)
    # 100 steps of 20 ms for itself, and each of five others waits 10 ms more in each; its prompt runs once more.
    assert price(strangers, coming(LOWER)) == pytest.approx(2.0 + 5 * 1.0 + 0.01 * 6)
    chosen = admit([strangers, friends], coming(LOWER))
    assert chosen is not None
    assert chosen.agent == "a"


def test_an_idle_agent_is_better_than_strangers_and_no_better_than_company() -> None:
    idle, friends, strangers = Spot("c", {}, 0), Spot("b", {LOWER: used(5)}, 5), Spot("a", {OTHER: used(5)}, 5)
    assert price(strangers, coming(LOWER)) > price(idle, coming(LOWER)) > price(friends, coming(LOWER))


def test_rows_that_make_batches_longer_are_charged_for_everybody() -> None:
    crowded = Spot("a", {LOWER: used(127)}, 127)
    step = 0.01 + 0.01 * 64 / 64
    longer = 0.01 / 64
    # The prompt of one row costs its share of a step too.
    assert price(crowded, coming(LOWER)) == pytest.approx(100 * step + 127 * 100 * longer + 128 * longer)


def test_prompts_that_wait_delay_the_first_token_and_ones_own_delays_everybody() -> None:
    backlog = Spot("a", {LOWER: used(4, prompt_rows=128)}, 4)
    quiet = Spot("b", {LOWER: used(4)}, 4)
    ride = FLAT.rows.at(68) - FLAT.rows.at(4)
    assert price(backlog, coming(LOWER)) - price(quiet, coming(LOWER)) == pytest.approx(2 * ride)
    assert price(quiet, coming(LOWER, rows=64)) - price(quiet, coming(LOWER)) == pytest.approx(5 * ride)


def test_a_higher_power_spares_those_who_wait_longest() -> None:
    """One sequence whose steps are slow, or three whose steps are quick: the sum spares the three, the tail the one."""
    slow_one = SegmentProfile(CostTable((1,), (0.05,)))
    slow, quick = Spot("slow", {OTHER: used(1, slow_one)}, 1), Spot("quick", {UPPER: used(8)}, 8)
    assert price(quick, coming(LOWER)) > price(slow, coming(LOWER))
    assert price(quick, coming(LOWER), power=4) < price(slow, coming(LOWER), power=4)


def test_loading_and_the_way_are_paid_for() -> None:
    assert price(Spot("a", {}, 0, load_s=0.5), coming(LOWER)) - price(Spot("a", {}, 0), coming(LOWER)) == pytest.approx(
        0.5
    )
    assert price(Spot("a", {}, 0, net_s=1e-3), coming(LOWER)) - price(Spot("a", {}, 0), coming(LOWER)) == pytest.approx(
        0.1
    )


def test_nobody_is_admitted_nowhere() -> None:
    assert admit([], coming(LOWER)) is None


@given(st.permutations([Spot("a", {}, 0), Spot("b", {}, 0), Spot("c", {OTHER: used(1)}, 1)]))
def test_the_order_of_spots_does_not_matter(spots: list[Spot]) -> None:
    chosen = admit(spots, coming(LOWER))
    assert chosen is not None
    assert chosen.agent == "a"


def test_what_answers_were_counts_the_more_the_more_of_them_have_ended() -> None:
    assert expected_tokens(0, 0, 256.0) == 256.0
    assert expected_tokens(16 * 100, 16, 256.0) == pytest.approx(178.0)
    assert expected_tokens(10_000 * 100, 10_000, 256.0) == pytest.approx(100.0, rel=0.01)
