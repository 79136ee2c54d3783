"""A draft is tried a little, used while it pays, and left alone for a while where it does not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quiltwork.core.names import ModelRef
from quiltwork.serving.pairing import (
    HOPELESS_TOKENS,
    MAX_OFF_SECONDS,
    MAX_WASTE,
    OFF_SECONDS,
    PRIOR,
    TRIAL_TOKENS,
    Pairing,
    Phase,
    own_acceptance,
)


def tried(pairing, useful, busy, wasted=0.0):
    """A whole trial that comes out so."""
    for _ in range(TRIAL_TOKENS):
        pairing.observe(1, int(useful))
        pairing.judge(useful, busy)
    return pairing


def test_a_trial_ends_only_after_enough_tokens():
    pairing = Pairing(ModelRef("small"))
    pairing.observe(1, 1)
    for _ in range(TRIAL_TOKENS - 2):
        pairing.observe(1, 0)
        assert not pairing.judge(False, 1.0)
    pairing.observe(1, 0)
    assert pairing.judge(False, 1.0)
    assert pairing.phase is Phase.OFF


def test_a_trial_in_which_nothing_is_right_ends_early_whatever_a_right_one_would_be_worth():
    pairing = Pairing(ModelRef("small"))
    for _ in range(HOPELESS_TOKENS - 1):
        pairing.observe(1, 0)
        assert not pairing.judge(True, 1.0)
    pairing.observe(1, 0)
    assert pairing.judge(True, 1.0)


def test_a_second_trial_counts_afresh():
    pairing = tried(Pairing(ModelRef("small")), False, 0.0)
    pairing.wake(pairing.resume_at)
    for _ in range(HOPELESS_TOKENS - 1):
        pairing.observe(1, 0)
        assert not pairing.judge(False, pairing.resume_at)
    pairing.observe(1, 1)
    assert pairing.phase is Phase.TRIAL
    assert not pairing.judge(False, pairing.resume_at)


def test_it_rests_from_a_failed_trial_to_the_next():
    pairing = Pairing(ModelRef("small"))
    assert not pairing.resting(0.0)
    tried(pairing, False, 3.0)
    assert pairing.resting(3.0)
    assert pairing.resting(pairing.resume_at - 0.01)
    assert not pairing.resting(pairing.resume_at)


def test_a_useless_draft_is_off_for_twice_as_long_each_time():
    pairing, busy, pauses = Pairing(ModelRef("small")), 0.0, []
    for _ in range(7):
        tried(pairing, False, busy)
        assert pairing.phase is Phase.OFF
        pauses.append(pairing.resume_at - busy)
        pairing.wake(pairing.resume_at - 0.01)
        assert pairing.phase is Phase.OFF
        busy = pairing.resume_at
        pairing.wake(busy)
        assert pairing.phase is Phase.TRIAL
        assert pairing.acceptance == PRIOR
    assert pauses == [min(OFF_SECONDS * 2**i, MAX_OFF_SECONDS) for i in range(7)]


@given(st.floats(0.0, 100.0))
def test_trials_never_cost_more_than_their_share(wasted):
    pairing = Pairing(ModelRef("small"))
    pairing.wasted = wasted
    tried(pairing, False, 5.0)
    assert (pairing.resume_at - 5.0) * MAX_WASTE >= wasted * 0.999


def test_a_good_draft_stays_on_through_a_passing_doubt_and_goes_with_a_lasting_one():
    pairing = tried(Pairing(ModelRef("small")), True, 0.0)
    assert pairing.phase is Phase.ON
    for useful in (False, False, True, False, False):
        assert not pairing.judge(useful, 1.0)
    assert pairing.judge(False, 1.0)


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8)), max_size=50))
def test_acceptance_is_a_share(runs):
    pairing, own = Pairing(ModelRef("small")), 0.5
    for drafted, accepted in runs:
        pairing.observe(drafted, min(drafted, accepted))
        own = own_acceptance(own, pairing.acceptance, drafted, min(drafted, accepted))
        assert 0.0 <= pairing.acceptance <= 1.0
        assert 0.0 <= own <= 1.0


def test_tokens_behind_the_first_wrong_one_say_nothing():
    a, b = Pairing(ModelRef("small")), Pairing(ModelRef("small"))
    a.observe(8, 2)
    b.observe(3, 2)
    assert a.acceptance == b.acceptance
    assert a.tested == b.tested == 3


def test_a_sequence_that_stopped_drafting_goes_back_to_what_its_pair_does():
    own = 0.0
    for _ in range(300):
        own = own_acceptance(own, 0.8, 0, 0)
    assert own > 0.7
