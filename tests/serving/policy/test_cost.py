from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.core.errors import BadInputError
from quiltwork.serving.policy.cost import CostTable, Link, SegmentProfile, joined

TABLE = CostTable((1, 64, 256), (0.188, 0.197, 0.369))


@st.composite
def tables(draw: st.DrawFn) -> CostTable:
    amounts = sorted(draw(st.sets(st.integers(1, 4096), min_size=1, max_size=6)))
    steps = draw(st.lists(st.floats(0, 1), min_size=len(amounts), max_size=len(amounts)))
    return CostTable(tuple(amounts), tuple(sum(steps[: i + 1]) for i in range(len(steps))))


def test_a_table_gives_what_was_measured_and_a_line_between() -> None:
    assert [TABLE.at(n) for n in (1, 64, 256)] == [0.188, 0.197, 0.369]
    assert TABLE.at(160) == pytest.approx((0.197 + 0.369) / 2)
    assert TABLE.at(448) == pytest.approx(0.369 + 0.172)
    assert TABLE.at(0) == 0


def test_one_launch_costs_what_the_smallest_one_cost() -> None:
    assert CostTable((16, 32), (2.0, 3.0)).at(1) == 2.0


@given(tables(), st.floats(0, 8))
def test_the_largest_amount_within_a_time_stays_within_it(table: CostTable, seconds: float) -> None:
    most = table.most_within(seconds)
    if most:
        assert table.at(most) <= seconds + 1e-9
    else:
        assert table.at(table.amounts[0]) > seconds


@given(tables(), st.floats(1, 5000), st.floats(1, 5000))
def test_more_never_costs_less_where_no_measurement_says_so(table: CostTable, a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert table.at(low) <= table.at(high) + 1e-9


@pytest.mark.parametrize(("amounts", "seconds"), [((), ()), ((1, 2), (1.0,)), ((2, 1), (1.0, 2.0)), ((1,), (-1.0,))])
def test_a_malformed_table_is_refused(amounts: tuple[float, ...], seconds: tuple[float, ...]) -> None:
    with pytest.raises(BadInputError):
        CostTable(amounts, seconds)


def test_segments_that_follow_each_other_cost_their_sum() -> None:
    one = SegmentProfile(TABLE, context_s=1e-6, weight_bytes=10, kv_bytes=4, hidden_bytes=2, load_s=1.0)
    both = joined([one, one])
    assert both.batch_s(160, 100) == pytest.approx(2 * one.batch_s(160, 100))
    assert (both.kv_bytes, both.hidden_bytes, both.weight_bytes, both.load_s) == (8, 2, 20, 2.0)


def test_a_link_takes_its_measured_times_where_there_are_any() -> None:
    assert Link(1e-3, 1e9).seconds(1e9) == pytest.approx(1.001)
    assert Link(1.0, 1.0, CostTable((1, 100), (0.5, 0.6))).seconds(100) == 0.6
    assert Link(1e-3, 1e9, busy_s=2.0).seconds(1e9) == pytest.approx(3.001), "after what is on it"
    with pytest.raises(BadInputError):
        Link(0.0, 0.0)
