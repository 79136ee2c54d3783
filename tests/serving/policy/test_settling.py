"""Chains that share segments settle together, strangers apart, within memory."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.serving.policy.cost import CostTable, SegmentProfile
from quiltwork.serving.policy.placement import Place
from quiltwork.serving.policy.settling import Lengths, Stream, sequences, settle

LENGTHS = Lengths(prompt_tokens=1, output_tokens=100, chunk=64)
FLAT = SegmentProfile(CostTable((1, 64), (0.01, 0.01)), weight_bytes=30)
LOWER, TOP_A, TOP_B, OWN_A, OWN_B = ("lower",), ("top a",), ("top b",), ("own a",), ("own b",)
PROFILES = dict.fromkeys((LOWER, TOP_A, TOP_B, OWN_A, OWN_B), FLAT)


def places(*nbytes: float) -> list[Place]:
    return [Place(f"agent {i}", n) for i, n in enumerate(nbytes)]


def test_one_segment_under_load_has_as_many_sequences_as_little_says() -> None:
    """Many sequences: always in use, a step of 10 ms, 100 of them each: 1 s at 20 requests/s, 20 under way."""
    found = sequences({(LOWER,): 20.0}, PROFILES, LENGTHS)
    assert found is not None
    assert found[LOWER,] == pytest.approx(20.0, rel=0.01)


def test_strangers_wait_for_each_other_and_friends_do_not() -> None:
    friends = sequences({(LOWER, TOP_A): 10.0, (LOWER, TOP_B): 10.0}, PROFILES, LENGTHS)
    strangers = sequences({(OWN_A,): 10.0, (OWN_B,): 10.0}, PROFILES, LENGTHS)
    assert friends is not None
    assert strangers is not None
    assert sum(friends.values()) == pytest.approx(20 * 3.0, rel=0.01)
    assert sum(strangers.values()) == pytest.approx(20 * 2.0, rel=0.01)


def test_what_is_seldom_in_use_costs_the_others_little() -> None:
    alone = sequences({(OWN_A,): 10.0}, PROFILES, LENGTHS)
    disturbed = sequences({(OWN_A,): 10.0, (OWN_B,): 0.01}, PROFILES, LENGTHS)
    assert alone is not None
    assert disturbed is not None
    # The rare one's own step is 20 ms: 2 s a request, 0.02 under way, in use 1 - exp(-0.02) of the time.
    step = 0.01 + 0.01 * (1 - math.exp(-0.01 * disturbed[OWN_B,] / 0.01))
    assert disturbed[OWN_A,] / alone[OWN_A,] == pytest.approx(step / 0.01, rel=0.01)


def test_more_than_an_agent_can_do_has_no_end() -> None:
    dear = SegmentProfile(CostTable((1, 2), (1.0, 2.0)))
    assert sequences({(LOWER,): 1.0}, {LOWER: dear}, LENGTHS) is None


def test_chains_of_one_lower_part_share_an_agent_and_strangers_get_their_own() -> None:
    streams = [
        Stream("a", (LOWER, TOP_A), 2.0),
        Stream("b", (LOWER, TOP_B), 2.0),
        Stream("c", (OWN_A,), 8.0),
        Stream("d", (OWN_B,), 8.0),
    ]
    held = settle(streams, PROFILES, places(100, 100, 100), LENGTHS, kv_share=0.0)
    homes = sorted(held.values())
    assert homes == sorted([tuple(sorted([LOWER, TOP_A, TOP_B])), (OWN_A,), (OWN_B,)])


def test_memory_is_kept_and_what_fits_nowhere_is_left_out() -> None:
    streams = [Stream("a", (LOWER, TOP_A), 1.0), Stream("b", (OWN_A,), 1.0)]
    held = settle(streams, PROFILES, places(59), LENGTHS, kv_share=0.0)
    assert held == {"agent 0": (OWN_A,)}
    assert settle(streams, PROFILES, places(59), LENGTHS, kv_share=0.6) == {"agent 0": ()}


def test_a_chain_too_busy_for_one_agent_gets_several() -> None:
    heavy = SegmentProfile(CostTable((1, 64), (0.01, 0.03)), context_s=5e-6, weight_bytes=30)
    held = settle([Stream("a", (OWN_A,), 20.0)], {OWN_A: heavy}, places(100, 100, 100), LENGTHS)
    assert list(held.values()).count((OWN_A,)) == 3


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_whatever_the_order_of_streams_every_agent_holds_whole_chains_within_its_memory(seed: int) -> None:
    rng = random.Random(seed)
    streams = [Stream(str(i), chain, rng.uniform(0.01, 20)) for i, chain in enumerate(
        [(LOWER, TOP_A), (LOWER, TOP_B), (LOWER,), (OWN_A,), (OWN_B,)])]  # fmt: skip
    world = places(*(rng.choice([40, 70, 130]) for _ in range(4)))
    held = settle(streams, PROFILES, world, LENGTHS)
    shuffled = rng.sample(streams, len(streams))
    assert settle(shuffled, PROFILES, world[::-1], LENGTHS) == held
    for place in world:
        assert 30 * len(held[place.agent]) <= place.memory_bytes
        assert all(LOWER in held[place.agent] for top in (TOP_A, TOP_B) if top in held[place.agent])
    placed = {i for at in held.values() for i in at}
    assert placed >= {OWN_A, OWN_B, LOWER} or min(p.memory_bytes for p in world) < 70


STREAMS = [Stream("a", (LOWER, TOP_A), 2.0), Stream("b", (LOWER, TOP_B), 2.0), Stream("own", (OWN_A,), 2.0)]
FREE = settle(STREAMS, PROFILES, places(1e3, 1e3), LENGTHS)
OTHER_WAY = {"agent 0": FREE["agent 1"], "agent 1": FREE["agent 0"]}


def test_what_stands_stays_where_moving_it_gains_nothing() -> None:
    assert settle(STREAMS, PROFILES, places(1e3, 1e3), LENGTHS, present=FREE) == FREE
    assert settle(STREAMS, PROFILES, places(1e3, 1e3), LENGTHS, present=OTHER_WAY) == OTHER_WAY


def test_what_stands_badly_moves_unless_it_would_have_to_gain_more() -> None:
    crowded = {"agent 0": (LOWER, OWN_A, TOP_A, TOP_B)}
    assert settle(STREAMS, PROFILES, places(1e3, 1e3), LENGTHS, present=crowded) == FREE
    kept = settle(STREAMS, PROFILES, places(1e3, 1e3), LENGTHS, present=crowded, hysteresis=0.99)
    assert kept["agent 0"] == (LOWER, OWN_A, TOP_A, TOP_B)


def test_a_chain_that_comes_later_joins_and_nobody_moves_for_it() -> None:
    found = settle([*STREAMS, Stream("late", (OWN_B,), 0.1)], PROFILES, places(1e3, 1e3), LENGTHS, present=OTHER_WAY)
    for agent, held in OTHER_WAY.items():
        assert set(found[agent]) >= set(held)
    assert OWN_B in {i for held in found.values() for i in held}


def test_a_chain_whose_agent_is_gone_finds_another_and_replicas_stay() -> None:
    twice = {"agent 0": (OWN_A,), "agent 1": (OWN_A,), "agent 9": (OWN_B,)}
    streams = [Stream("own", (OWN_A,), 0.01), Stream("lost", (OWN_B,), 0.01)]
    found = settle(streams, PROFILES, places(1e3, 1e3), LENGTHS, present=twice, hysteresis=0.99)
    assert all(OWN_A in held for held in found.values())
    assert any(OWN_B in held for held in found.values())
