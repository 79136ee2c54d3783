"""Which chain answers: the exact one, unless a permitted one is clearly cheaper."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.serving.policy.assembly import Candidate, Outlook, added_s, assemble

EXACT = Candidate("m", Outlook(prompt_s=1.0, step_s=0.1, steps=10))


def chain(name, seconds, loss=0.001):
    return Candidate(name, Outlook(prompt_s=seconds), loss)


def test_a_cost_is_load_and_prompt_once_and_queue_and_batch_with_every_token():
    assert Outlook(load_s=5, prompt_s=2, queue_s=0.5, step_s=0.25, steps=4).cost_s == 5 + 2 + 4 * 0.75


def test_the_exact_chain_answers_where_nothing_may_stand_in_or_nothing_is_clearly_cheaper():
    assert assemble(EXACT, []) is EXACT
    assert assemble(EXACT, [chain("a", 1.81)]) is EXACT
    assert assemble(EXACT, [chain("a", 1.79)]).name == "a"
    assert assemble(EXACT, [chain("a", 1.79)], hysteresis=0.2) is EXACT


def test_an_overloaded_exact_chain_is_left_and_an_absent_one_too():
    near = Candidate("near", Outlook(prompt_s=1.0, queue_s=0.01, step_s=0.1, steps=10), 0.004)
    queued = Candidate("m", Outlook(prompt_s=1.0, queue_s=0.2, step_s=0.1, steps=10))
    absent = Candidate("m", Outlook(load_s=3.0, prompt_s=1.0, step_s=0.1, steps=10))
    nowhere = Candidate("m", Outlook(load_s=math.inf))
    assert assemble(EXACT, [near]) is EXACT
    assert all(assemble(exact, [near]) is near for exact in (queued, absent, nowhere))


def test_a_stand_in_that_would_have_to_be_loaded_pays_for_it():
    joins = Outlook(prompt_s=0.5, step_s=0.01, steps=10)
    loaded, absent = Candidate("a", joins), Candidate("a", Outlook(load_s=2.0, prompt_s=0.5, step_s=0.01, steps=10))
    assert assemble(EXACT, [loaded]) is loaded
    assert assemble(EXACT, [absent]) is EXACT
    assert assemble(EXACT, [Candidate("a", Outlook(load_s=math.inf))]) is EXACT


def test_what_is_computed_already_counts():
    told = Candidate("m", Outlook(prompt_s=0.1, step_s=0.1, steps=10, found=48))
    joins = Candidate("a", Outlook(prompt_s=0.9, step_s=0.04, steps=10))
    assert assemble(told, [joins]) is told
    assert assemble(EXACT, [joins]) is joins


def test_of_several_the_cheapest_then_the_one_that_loses_least():
    assert assemble(EXACT, [chain("a", 1.0), chain("b", 0.5, 0.009)]).name == "b"
    assert assemble(EXACT, [chain("a", 0.5, 0.009), chain("b", 0.5, 0.001)]).name == "b"
    assert assemble(EXACT, [chain("b", 0.5), chain("a", 0.5)]).name == "a"


@pytest.mark.parametrize("no_number", [math.nan, math.inf])
def test_what_is_not_known_never_speaks_for_a_stand_in(no_number):
    assert assemble(EXACT, [chain("a", no_number)]) is EXACT
    nothing_measured = Candidate("m", Outlook())
    assert assemble(nothing_measured, [chain("a", 0.0), chain("b", no_number)]) is nothing_measured


@given(
    st.floats(0, 100), st.lists(st.tuples(st.floats(0, 100), st.floats(0, 0.1)), max_size=5), st.floats(0, 0.9),
    st.floats(0, 0.9),
)  # fmt: skip
def test_whoever_is_chosen_saves_more_than_the_hysteresis_and_a_larger_one_never_brings_more_stand_ins(
    cost, others, small, large
):
    exact = Candidate("m", Outlook(prompt_s=cost))
    stand_ins = [chain(f"s{i}", *other) for i, other in enumerate(others)]
    small, large = sorted((small, large))
    chosen = assemble(exact, stand_ins, hysteresis=small)
    assert chosen is exact or chosen.outlook.cost_s < cost * (1 - small)
    if chosen is exact:
        assert assemble(exact, stand_ins, hysteresis=large) is exact


def test_joining_a_batch_costs_what_it_adds_and_never_more_than_being_alone():
    def reading_weights(rows):
        return 1.0 + 0.01 * rows

    assert added_s(reading_weights, 0, 1) == pytest.approx(1.01)
    assert added_s(reading_weights, 8, 1) == pytest.approx(0.01)
    assert added_s(lambda rows: rows**2, 8, 2) == 4
    assert added_s(lambda rows: 5 - rows, 1, 1) == 0
