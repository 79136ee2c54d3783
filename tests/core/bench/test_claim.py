"""When a claim is met, and when it is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.core.bench import Claim, Outcome, Reach, at_least, at_most, judge
from quiltwork.core.errors import BadInputError

positive = st.floats(0.1, 1000)


def claim(reach: Reach, ratio="ours/baseline", parity=False) -> Claim:
    return Claim("room.figure", "room", "a vs b", reach, ratio, "s", parity)


def around(center: float, spread: float = 0.0) -> list[float]:
    return [center * (1 + spread * step) for step in (-1, -0.5, 0, 0.5, 1)] * 4


@pytest.mark.parametrize(
    ("reach", "ours", "baseline", "ratio", "met"),
    [
        (at_least(2.5), 1.0, 2.6, "baseline/ours", True),
        (at_least(2.5), 1.0, 2.4, "baseline/ours", False),
        (at_least(1.2), 13.0, 10.0, "ours/baseline", True),
        (at_least(1.2), 10.0, 13.0, "ours/baseline", False),
        (at_most(0.35), 3.4, 10.0, "ours/baseline", True),
        (at_most(0.35), 3.6, 10.0, "ours/baseline", False),
        (at_most(0.45), 0.45, 1.0, "ours/baseline", True),
        (at_most(1.5), 1.4, 1.0, "ours/baseline", True),
        (at_most(1.5), 1.6, 1.0, "ours/baseline", False),
    ],
)
def test_the_median_has_to_reach_it_in_the_right_direction(reach, ours, baseline, ratio, met):
    assert judge(claim(reach, ratio), Outcome([ours], [baseline])).met is met


def test_an_interval_around_one_misses_though_the_median_reaches():
    ours = [1.0, 1.0, 1.3, 1.3, 1.3] * 1
    verdict = judge(claim(at_least(1.2)), Outcome(ours, [1.3, 1.3, 1.0, 1.0, 1.0]))
    assert verdict.ratio >= 1.2
    assert verdict.interval.contains(1.0)
    assert not verdict.met
    assert "contains 1" in verdict.why


def test_where_a_loss_is_conceded_no_loss_at_all_is_met():
    verdict = judge(claim(at_most(1.5)), Outcome(around(1.0, 0.05), around(1.0, -0.05)))
    assert verdict.interval.contains(1.0)
    assert verdict.met
    wide = judge(claim(at_most(1.5)), Outcome([0.5, 1.0, 2.0], [1.0, 1.0, 1.0]))
    assert wide.interval.contains(1.0)
    assert not wide.met


@pytest.mark.parametrize(
    ("reach", "center", "spread", "met"),
    [
        (at_least(0.98), 1.0, 0.001, True),
        (at_least(0.98), 0.985, 0.015, True),
        (at_least(0.98), 0.985, 0.06, False),
        (at_least(0.98), 0.975, 0.0, False),
        (at_least(0.98), 1.5, 0.0, True),
        (at_most(1.02), 1.0, 0.001, True),
        (at_most(1.02), 1.03, 0.0, False),
    ],
)
def test_parity_asks_for_the_median_and_for_the_intervals_worse_end(reach, center, spread, met):
    verdict = judge(claim(reach, parity=True), Outcome(around(center, spread), around(1.0)))
    assert verdict.met is met
    assert bool(verdict.why) is not met


@pytest.mark.parametrize(("worse", "met"), [(0.9601, True), (0.9599, False)])
def test_the_worse_end_of_parity_may_lie_a_fiftieth_below(worse, met):
    # Two pairs: the interval's ends are the two ratios.
    outcome = Outcome([worse, 1.01], [1.0, 1.0])
    assert judge(claim(at_least(0.98), parity=True), outcome).met is met


@pytest.mark.parametrize("parity", [True, False])
def test_different_answers_miss_any_claim(parity):
    fast = {"ours": [100.0], "baseline": [1.0]}
    assert judge(claim(at_least(0.98), parity=parity), Outcome(**fast, answers_equal=True)).met
    assert judge(claim(at_least(0.98), parity=parity), Outcome(**fast, answers_equal=None)).met
    verdict = judge(claim(at_least(0.98), parity=parity), Outcome(**fast, answers_equal=False))
    assert (verdict.met, verdict.why) == (False, "the answers differ")


@given(st.lists(positive, min_size=1, max_size=8), st.lists(positive, min_size=1, max_size=8), st.floats(0.1, 10))
def test_a_ratio_turned_around_is_the_inverse(ours, baseline, value):
    up = judge(claim(at_least(value)), Outcome(ours, baseline))
    down = judge(claim(at_least(value), "baseline/ours"), Outcome(baseline, ours))
    assert up == down


@given(st.lists(positive, min_size=2, max_size=8), st.floats(0.01, 100), st.integers(2, 2**10))
def test_the_unit_does_not_matter(ours, factor, scale):
    baseline = [sample * factor for sample in reversed(ours)]
    a = judge(claim(at_most(0.5)), Outcome(ours, baseline))
    b = judge(claim(at_most(0.5)), Outcome([s * scale for s in ours], [s * scale for s in baseline]))
    assert a.ratio == pytest.approx(b.ratio)
    assert a.interval.low == pytest.approx(b.interval.low)


@pytest.mark.parametrize(
    ("ours", "baseline"),
    [([], [1.0]), ([1.0], []), ([float("nan")], [1.0]), ([float("inf")], [1.0]), ([0.0], [1.0]), ([-1.0], [1.0])],
)
def test_samples_without_a_ratio_are_refused_by_name(ours, baseline):
    with pytest.raises(BadInputError, match=r"room\.figure"):
        judge(claim(at_least(1)), Outcome(ours, baseline))


@pytest.mark.parametrize("name", ["figure", "room.", "other.figure", "room.Figure", "room.a b", "room/../x.y", ""])
def test_a_claims_name_is_its_room_and_a_figure(name):
    with pytest.raises(BadInputError, match="claim"):
        Claim(name, "room", "", at_least(1), "ours/baseline", "s")


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_reach_is_a_positive_number(value):
    with pytest.raises(BadInputError, match="reach"):
        at_least(value)


def test_a_reach_is_shown_with_its_direction():
    assert [str(at_least(2.5)), str(at_most(0.35))] == ["≥ 2.5x", "≤ 0.35x"]
