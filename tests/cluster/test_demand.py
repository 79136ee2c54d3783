"""The servers that inference needs, over time."""

from __future__ import annotations

import pytest

from quiltwork.cluster.traces import read_demand
from quiltwork.core.errors import BadInputError

SERIES = "t_s,big,big_frac,other_frac,is_extension\n0,900,0.4,0.5,0\n300,950,0.41,0.5,0\n600,990,1.0,0.5,1\n"


def series(tmp_path, text=SERIES):
    path = tmp_path / "demand.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize("column", ["big", "big_frac"])
def test_a_series_is_a_share_of_the_fleet_over_time(tmp_path, column):
    demand = read_demand(series(tmp_path), column)
    assert list(demand.t_s) == [0, 300, 600]
    assert list(demand.share) == [0.4, 0.41, 1.0]
    assert list(demand.extended) == [False, False, True]
    assert demand.step_s == 300


def test_servers_are_rounded_up_but_not_by_rounding_errors(tmp_path):
    assert list(read_demand(series(tmp_path), "big").servers(100)) == [40, 41, 100]
    assert list(read_demand(series(tmp_path), "big").servers(7)) == [3, 3, 7]


def test_a_share_holds_until_the_next_time(tmp_path):
    demand = read_demand(series(tmp_path), "big")
    assert [demand.at(t) for t in (-5, 0, 299, 300, 9999)] == [0.4, 0.4, 0.4, 0.41, 1.0]


def test_a_column_may_count_servers(tmp_path):
    demand = read_demand(series(tmp_path, "t_s,busy\n0,5\n60,20\n"), "busy", fleet=20)
    assert list(demand.share) == [0.25, 1.0]
    assert not demand.extended.any()


def test_demand_above_the_fleet_is_refused(tmp_path):
    with pytest.raises(BadInputError, match=r"demand\.csv: line 3: busy: '21' is more than the fleet of 20"):
        read_demand(series(tmp_path, "t_s,busy\n0,5\n60,21\n"), "busy", fleet=20)
    with pytest.raises(BadInputError, match=r"line 2: busy: '1\.01' is more than the whole fleet, 1"):
        read_demand(series(tmp_path, "t_s,busy\n0,1.01\n"), "busy")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t_s,busy\n0,nan\n", "line 2: busy: 'nan' is not a number"),
        ("t_s,busy\n0,\n", "line 2: busy: '' is not a number"),
        ("t_s,busy\n0,-0.1\n", "line 2: busy: '-0.1' is less than nothing"),
        ("t_s,busy\n0,0\n60,0\n30,0\n", "line 4: t_s: '30' is no later than the time above it"),
        ("t_s,busy\n0,0\n0,0\n", "line 3: t_s: '0' is no later"),
        ("t_s,busy,is_extension\n0,0,maybe\n", "line 2: is_extension: 'maybe' is neither 0 nor 1"),
        ("t_s,idle\n0,0\n", "line 1: has no column 'busy'"),
        ("t_s,busy\n", "has no times"),
    ],
)
def test_what_is_wrong_is_said_with_line_and_field(tmp_path, text, message):
    with pytest.raises(BadInputError, match=message):
        read_demand(series(tmp_path, text), "busy")


def test_uneven_times_are_read_but_have_no_step(tmp_path):
    demand = read_demand(series(tmp_path, "t_s,busy\n0,0\n60,0\n300,0\n"), "busy")
    with pytest.raises(BadInputError, match="not evenly spaced"):
        _ = demand.step_s


@pytest.mark.realdata
def test_the_published_series_spans_15_days_of_which_the_last_repeats(data_dir):
    demand = read_demand(data_dir / "cluster/inference/inference_demand_5min_15d.csv.gz", "m-small")
    assert (len(demand), demand.step_s) == (4320, 300)
    assert demand.extended.sum() == 288
    assert demand.share.min() >= 0.4
