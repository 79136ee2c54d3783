"""Rates of requests, by a clock that is handed in."""

import math

import pytest

from quiltwork.serving.policy.pace import WORTH_LOADS, Pace, worth_holding_back


def test_a_steady_stream_comes_to_its_rate() -> None:
    pace = Pace()
    for second in range(200):
        pace = pace.counted(second / 2, memory_s=10.0)
    assert pace.per_second(100.0, memory_s=10.0) == pytest.approx(2.0, rel=0.03)


def test_what_is_no_longer_asked_for_falls_below_what_is_asked_for_seldom() -> None:
    flood, drip = Pace(), Pace()
    for at in range(50):
        flood = flood.counted(at / 50, memory_s=10.0)
    drip = drip.counted(60.0, memory_s=10.0)
    assert flood.per_second(1.0, memory_s=10.0) > drip.per_second(60.0, memory_s=10.0) > flood.per_second(60.0, 10.0)


def test_it_halves_in_its_half_life_and_a_clock_that_stands_does_no_harm() -> None:
    once = Pace().counted(5.0, memory_s=10.0)
    assert once.per_second(5.0, memory_s=10.0) == pytest.approx(0.1)
    assert once.per_second(5.0 + 10.0 * math.log(2), memory_s=10.0) == pytest.approx(0.05)
    assert once.counted(5.0, memory_s=10.0).count == 2.0


def test_busy_models_are_held_back_only_for_what_was_waited_for_longer_than_it_loads() -> None:
    assert not worth_holding_back(WORTH_LOADS * 2.0 - 0.1, 2.0)
    assert worth_holding_back(WORTH_LOADS * 2.0, 2.0)
    assert worth_holding_back(0.0, 0.0)
