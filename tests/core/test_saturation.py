"""The knee lies where throughput stops to follow the rate of arrival."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.core.saturation import KEEPS_UP, followed, knee

RATES = (2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0)


def queue(rate: float, service_s: float, servers: int = 1, count: int = 600) -> tuple[list[float], list[float]]:
    """Arrivals at random, and when each is answered by whoever of ``servers`` is free first."""
    draw, at, free = random.Random(f"queue/{rate}"), 0.0, [0.0] * servers
    arrivals, ends = [], []
    for _ in range(count):
        at += draw.expovariate(rate)
        first = free.index(min(free))
        free[first] = max(free[first], at) + service_s
        arrivals.append(at)
        ends.append(free[first])
    return arrivals, ends


def p95(arrivals: list[float], ends: list[float]) -> float:
    waits = sorted(end - at for at, end in zip(arrivals, ends, strict=True))
    return waits[int(0.95 * len(waits))]


def test_a_server_of_ten_a_second_has_its_knee_below_ten_and_p95_is_known_on_both_sides() -> None:
    runs = {rate: queue(rate, 0.1) for rate in RATES}
    assert knee({rate: followed(*run) for rate, run in runs.items()}) == 8.0
    for rate, (arrivals, ends) in runs.items():
        offered = len(arrivals) / max(arrivals)
        assert len(ends) / max(ends) == pytest.approx(offered if rate < 10 else 10, rel=0.02)
    late = [p95(*runs[rate]) for rate in RATES]
    assert late == sorted(late)
    assert late[-1] > 10 * late[0]


def test_long_answers_are_no_saturation() -> None:
    """A second each, but fourteen at a time: requests that are under way when the last one comes are no backlog."""
    assert knee({rate: followed(*queue(rate, 1.0, servers=14)) for rate in RATES}) == 12.0


def test_requests_that_fail_are_not_kept_up_with() -> None:
    arrivals, ends = queue(2.0, 0.1)
    assert followed(arrivals, ends) > KEEPS_UP
    assert followed(arrivals, ends[::2]) < KEEPS_UP


def test_without_a_rate_that_is_kept_up_with_there_is_no_knee() -> None:
    assert knee({4.0: 0.5, 2.0: 0.9}) is None
    assert knee({}) is None


def test_all_at_once_say_nothing_of_a_rate() -> None:
    assert followed([0.0, 0.0], [1.0, 2.0]) == 1.0


@given(st.dictionaries(st.floats(0.1, 100), st.floats(0, 2), min_size=1))
def test_every_rate_up_to_the_knee_is_kept_up_with_and_the_next_is_not(shares: dict[float, float]) -> None:
    found = knee(shares)
    below = [rate for rate in shares if found is not None and rate <= found]
    above = [rate for rate in shares if rate not in below]
    assert all(shares[rate] >= KEEPS_UP for rate in below)
    assert not above or shares[min(above)] < KEEPS_UP
