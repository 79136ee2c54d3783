"""Levels say from which threshold on an expert is taken; their tally tells any threshold's cost beforehand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.core.errors import BadInputError
from quiltwork.moe import Adaptive, TopK
from quiltwork.moe.control.levels import ASSIGNMENTS, LEVELS, TOKENS, levels_of, tally_of, threshold_for


def logits(tokens: int, experts: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, experts, generator=torch.Generator().manual_seed(seed)) * 2


@pytest.mark.parametrize("reading", ["softmax", "pair"])
@pytest.mark.parametrize("most", [2, 4])
def test_a_threshold_takes_just_the_candidates_whose_level_it_reaches(reading: str, most: int) -> None:
    gate = Adaptive(0.3, most=most, reading=reading)
    routing = gate(logits(200))
    levels = levels_of(gate, routing.probabilities)
    assert levels.shape == (200, most - 1)
    assert torch.equal(routing.experts_per_token(), 1 + (levels <= 0.3).sum(-1))


@given(share=st.floats(0.02, 0.98), seed=st.integers(0, 50), most=st.integers(2, 4))
def test_the_threshold_of_a_tally_takes_the_share_that_was_asked_for(share: float, seed: int, most: int) -> None:
    gate = Adaptive(0.1, most=most)
    x = logits(4000, seed=seed)
    tally = tally_of(gate, gate(x)).numpy()
    found = threshold_for(tally[LEVELS:], share)
    taken = len(Adaptive(found, most=most)(x).token) - 4000
    assert taken / (4000 * (most - 1)) == pytest.approx(share, abs=0.01)


def test_tallies_of_two_halves_add_up_to_that_of_the_whole() -> None:
    gate, x = Adaptive(0.1), logits(100)
    whole, halves = tally_of(gate, gate(x)), [tally_of(gate, gate(part)) for part in x.split(37)]
    assert torch.equal(sum(halves), whole)
    assert whole[TOKENS] == 100
    assert whole[ASSIGNMENTS] == len(gate(x).token)
    assert whole[LEVELS:].sum() == 100


def test_none_and_all_leave_nothing_to_chance() -> None:
    bins = np.ones(512)
    gate, x = Adaptive(0.1), torch.zeros(5, 4)  # every gap is 0
    assert len(Adaptive(threshold_for(bins, 0.0))(x).token) == 5
    assert len(Adaptive(threshold_for(bins, 1.0))(x).token) == 10
    assert tally_of(gate, gate(x))[LEVELS] == 5


def test_a_gate_without_a_threshold_is_refused() -> None:
    with pytest.raises(BadInputError, match="TopK has no threshold"):
        tally_of(TopK(2), TopK(2)(logits(3)))


def test_a_single_expert_leaves_no_level() -> None:
    gate = Adaptive(0.1)
    assert levels_of(gate, gate(torch.zeros(3, 1)).probabilities).shape == (3, 0)


def test_nothing_counted_has_no_threshold() -> None:
    with pytest.raises(BadInputError, match="no token was counted"):
        threshold_for(np.zeros(512), 0.5)
