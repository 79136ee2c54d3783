from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.serving.policy.cost import CostTable, Handling, Link, SegmentProfile
from quiltwork.serving.policy.dispatch import Candidate, choose
from quiltwork.serving.policy.kv import (
    KVChoice,
    KVState,
    crossover_bytes_per_s,
    fetch,
    move_seconds,
    recompute_seconds,
)

# Llama-2-7B on an A100: 2.0 us per token and layer to compute, 16 KB of keys and values, 8 KB of hidden state.
LAYER = SegmentProfile(CostTable((1, 2048), (2e-6, 2048 * 2e-6)), kv_bytes=16384, hidden_bytes=8192)


def state(rate: float, **changes: object) -> KVState:
    link = Link(0.0, rate)
    return replace(KVState(1024, LAYER, link, 0, link), **changes)  # type: ignore[arg-type]


def test_the_choice_switches_where_the_formula_says() -> None:
    at = crossover_bytes_per_s(state(1.0))
    assert at * 8 == pytest.approx(65.5e9, rel=0.01)
    assert fetch(state(at * 1.05))[0] is KVChoice.MOVE
    assert fetch(state(at / 1.05))[0] is KVChoice.RECOMPUTE


def test_what_moving_costs_beyond_the_link_shifts_the_crossover() -> None:
    dear = state(1.0, handling=Handling(fixed_s=1e-4, byte_s=4e-11))
    at = crossover_bytes_per_s(dear)
    assert at > 1.2 * crossover_bytes_per_s(state(1.0))
    for rate, choice in ((at * 1.05, KVChoice.MOVE), (at / 1.05, KVChoice.RECOMPUTE)):
        assert fetch(replace(dear, from_owner=Link(0.0, rate), from_inputs=Link(0.0, rate)))[0] is choice
    hopeless = replace(dear, handling=Handling(byte_s=1.0))
    assert crossover_bytes_per_s(hopeless) == float("inf")
    assert fetch(replace(hopeless, from_owner=Link(0.0, 1e15)))[0] is KVChoice.RECOMPUTE


def test_computing_again_is_charged_for_everybody_it_delays() -> None:
    at = crossover_bytes_per_s(state(1.0))
    assert fetch(state(at / 2))[0] is KVChoice.RECOMPUTE
    assert fetch(state(at / 2, delayed=3))[0] is KVChoice.MOVE


def test_hidden_inputs_can_be_dearer_to_send_than_few_keys_and_values() -> None:
    grouped = replace(LAYER, kv_bytes=2048)
    assert fetch(state(1e9, profile=grouped, input_bytes=8192))[0] is KVChoice.MOVE


def test_without_an_owner_it_is_computed_again_and_without_inputs_neither_is_possible() -> None:
    assert fetch(state(1e12, from_owner=None))[0] is KVChoice.RECOMPUTE
    assert fetch(state(1e12, from_inputs=None))[0] is KVChoice.MOVE
    assert fetch(state(1e12, from_owner=None, from_inputs=None))[1] == float("inf")
    assert fetch(state(1.0, tokens=0)) == (KVChoice.NONE, 0.0)


@given(st.floats(1e6, 1e12), st.integers(1, 4096), st.integers(0, 8))
def test_the_cheaper_way_is_taken(rate: float, tokens: int, delayed: int) -> None:
    s = state(rate, tokens=tokens, delayed=delayed)
    assert fetch(s)[1] == min(move_seconds(s), recompute_seconds(s))


def test_the_owner_keeps_a_sequence_for_a_trifle_and_loses_it_for_more() -> None:
    owner = Candidate("b", queue_s=1.0, kv=KVChoice.OWNER)
    assert choose([owner, Candidate("a", kv_s=0.95, kv=KVChoice.MOVE)]) is owner
    better = Candidate("a", kv_s=0.8, kv=KVChoice.MOVE)
    assert choose([owner, better]) is better


def test_what_costs_once_is_weighed_against_what_every_token_costs() -> None:
    def candidates(steps: int) -> list[Candidate]:
        owner = Candidate("a", queue_s=0.04, kv=KVChoice.OWNER, steps=steps)
        return [owner, Candidate("b", kv_s=0.1, exec_s=0.005, kv=KVChoice.MOVE, steps=steps)]

    for steps, agent in ((1, "a"), (32, "b")):
        chosen = choose(candidates(steps))
        assert chosen is not None
        assert chosen.agent == agent


def test_a_queue_that_is_long_just_now_is_no_reason_to_move_but_one_that_stays_long_is() -> None:
    def chosen(usual_s: float | None) -> str | None:
        owner = Candidate("a", queue_s=0.04, exec_s=0.005, kv=KVChoice.OWNER, steps=32, usual_s=usual_s)
        other = Candidate("b", kv_s=0.1, exec_s=0.005, kv=KVChoice.MOVE, steps=32, usual_s=0.0)
        found = choose([owner, other])
        return found and found.agent

    assert chosen(usual_s=0.001) == "a"
    assert chosen(usual_s=0.04) == chosen(usual_s=None) == "b"


def test_nobody_is_chosen_where_nothing_is_possible() -> None:
    assert choose([Candidate("a", kv_s=float("inf"))]) is None
    assert choose([]) is None


def test_with_stale_figures_two_are_looked_at_and_the_owner_counts() -> None:
    idle = [Candidate(name, queue_s=q) for name, q in (("a", 0.0), ("b", 1.0), ("c", 2.0))]
    chosen = choose(idle, two=(1, 2))
    assert chosen is not None
    assert chosen.agent == "b"


@given(st.permutations([Candidate("a", queue_s=1.0), Candidate("b", queue_s=1.0), Candidate("c", queue_s=2.0)]))
def test_the_order_of_candidates_does_not_matter(candidates: list[Candidate]) -> None:
    chosen = choose(candidates)
    assert chosen is not None
    assert chosen.agent == "a"
