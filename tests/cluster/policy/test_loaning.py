import random

from quiltwork.cluster.policy.loaning import loan_change


def test_what_is_idle_beyond_headroom_and_hysteresis_is_lent():
    assert loan_change(100, 0, [0.5], headroom=0.02, hysteresis=0.0) == 48
    assert loan_change(100, 0, [0.5], headroom=0.02, hysteresis=0.02) == 46


def test_what_is_needed_is_asked_back_at_once():
    assert loan_change(100, 46, [0.5, 0.7], headroom=0.02) == -18
    assert loan_change(100, 46, [0.5, 1.0]) == -46


def test_a_server_is_lent_only_if_it_would_have_been_idle_all_the_lease():
    assert loan_change(100, 0, [0.9, 0.5, 0.5], headroom=0.0, hysteresis=0.0) == 10
    assert loan_change(100, 20, [0.9, 0.5, 0.5], headroom=0.0, hysteresis=0.0) == 0


def test_a_need_that_only_trembles_moves_no_server():
    chance = random.Random(1)
    lent = loan_change(202, 0, [0.61])
    needs = [0.6]
    for _ in range(288 * 5):
        needs.append(0.6 + chance.uniform(-0.01, 0.01))
        assert loan_change(202, lent, needs[-3:]) == 0
