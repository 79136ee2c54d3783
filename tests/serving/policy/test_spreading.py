"""Whole chains get a home each, and busy ones a second where an idler agent has room."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.serving.policy.spreading import complete, level, pour, spread

LOWER, UPPER, OWN = ("lower",), ("upper",), ("own",)
BYTES = {LOWER: 30.0, UPPER: 10.0, OWN: 10.0}


def test_a_chain_that_shares_goes_where_it_lacks_least() -> None:
    changes = complete([[LOWER, UPPER], [LOWER, OWN]], {}, BYTES, {"a": 50.0, "b": 60.0})
    assert {c.agent for c in changes} == {"b"}
    assert [c.instance for c in changes] == [LOWER, UPPER, OWN]


def test_a_chain_that_fits_nowhere_or_is_complete_changes_nothing() -> None:
    assert complete([[LOWER, UPPER]], {}, BYTES, {"a": 39.0}) == ()
    assert complete([[LOWER]], {LOWER: ["a"]}, BYTES, {"a": 99.0}) == ()


def test_the_busiest_chain_gets_a_copy_on_the_idlest_agent_until_it_is_idle_enough() -> None:
    chains = {"hot": [LOWER, UPPER], "cold": [OWN]}
    agents = {LOWER: ["a"], UPPER: ["a"], OWN: ["b"]}
    found = spread(chains, {"hot": 0.8, "cold": 0.1}, agents, BYTES, {"a": 0.0, "b": 50.0, "c": 50.0}, enough=0.3)
    assert [(c.instance, c.agent) for c in found] == [(LOWER, "c"), (UPPER, "c"), (LOWER, "b"), (UPPER, "b")]
    assert spread(chains, {"hot": 0.8, "cold": 0.1}, agents, BYTES, {"a": 0.0, "b": 50.0}, enough=0.9) == ()


@given(
    amount=st.floats(0, 10),
    levels=st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 5), min_size=1),
)
def test_pouring_keeps_the_amount_and_fills_the_lowest_first(amount: float, levels: dict[str, float]) -> None:
    shares = pour(amount, levels)
    assert sum(shares.values()) == pytest.approx(amount, abs=1e-9)
    assert min(shares.values()) >= 0
    surface = max(levels[a] + s for a, s in shares.items() if s > 0) if amount > 1e-6 else 0.0
    for agent, share in shares.items():
        assert levels[agent] + share >= surface - 1e-6


def test_a_load_with_several_homes_evens_out() -> None:
    keys = {(LOWER,): 1.0, (OWN,): 0.4}
    homes = {(LOWER,): ["a", "b"], (OWN,): ["a"]}
    assert level(keys, homes, ["a", "b"]) == pytest.approx({"a": 0.7, "b": 0.7})
