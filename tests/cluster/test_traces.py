"""Traces of training jobs, from CSV in several layouts."""

from __future__ import annotations

import gzip
import tracemalloc
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.cluster.trace_rows import Columns
from quiltwork.cluster.traces import TraceJob, draw, read_jobs
from quiltwork.core.errors import BadInputError

HOUSE = """job_id,submit_s,num_gpus,duration_s,vc,u_fungible,u_ckpt
0,0,1,108,red,0.18127,0.295922
1,247,8,74.5,blue,0.247368,0.482664
x,247,16,9000,red,0.5,0
"""


def table(tmp_path, text, name="jobs.csv"):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def rows(*lines, header="job_id,submit_s,num_gpus,duration_s"):
    return "\n".join([header, *lines]) + "\n"


@pytest.mark.parametrize("name", ["jobs.csv", "jobs.csv.gz"])
def test_each_row_becomes_a_job(tmp_path, name):
    trace = read_jobs(table(tmp_path, HOUSE, name))
    assert list(trace) == [
        TraceJob("0", 0.0, 1, 108.0, "red", {"fungible": 0.18127, "ckpt": 0.295922}),
        TraceJob("1", 247.0, 8, 74.5, "blue", {"fungible": 0.247368, "ckpt": 0.482664}),
        TraceJob("x", 247.0, 16, 9000.0, "red", {"fungible": 0.5, "ckpt": 0.0}),
    ]
    assert trace.notes == ()


def test_a_trace_needs_neither_teams_nor_draws(tmp_path):
    assert list(read_jobs(table(tmp_path, rows("a,5,2,10")))) == [TraceJob("a", 5.0, 2, 10.0)]


def test_a_trace_is_sliced_like_a_list_and_keeps_its_times(tmp_path):
    trace = read_jobs(table(tmp_path, HOUSE))
    assert [job.id for job in trace[1:]] == ["1", "x"]
    assert trace[1:][0].submit_s == 247
    assert trace[-1] == list(trace)[2]
    assert [job.id for job in trace.take(trace.gpus >= 8)] == ["1", "x"]


def test_gpus_may_be_written_as_whole_decimals(tmp_path):
    assert read_jobs(table(tmp_path, rows("a,0,8.0,1")))[0].gpus == 8


def test_rows_out_of_order_are_sorted_and_that_is_said(tmp_path):
    trace = read_jobs(table(tmp_path, rows("a,5,1,1", "b,2,1,1", "c,5,1,1", "d,2,1,1")))
    assert [job.id for job in trace] == ["b", "d", "a", "c"]
    assert trace.notes == ("2 rows submitted before the row above them: sorted",)


def test_jobs_that_ran_for_no_time_are_left_out_and_that_is_said(tmp_path):
    trace = read_jobs(table(tmp_path, rows("a,0,1,0", "b,1,1,5")))
    assert [job.id for job in trace] == ["b"]
    assert trace.notes == ("left out: 1 jobs that ran for no time",)


def test_muris_times_are_milliseconds(tmp_path):
    header = "job_id,num_gpu,submit_time,iterations,model_name,batch_size,duration,interval,iteration_time"
    trace = read_jobs(table(tmp_path, rows("7,4,1456000,1005573,resnet18,128,926133000,1456000,921", header=header)))
    assert trace[0] == TraceJob("7", 1456.0, 4, 926133.0)


def test_tiresias_times_are_seconds(tmp_path):
    header = "job_id,num_gpu,submit_time,iterations,model_name,duration,interval"
    assert read_jobs(table(tmp_path, rows("1,8,30,133,vgg11,147,23", header=header)))[0] == TraceJob(
        "1", 30.0, 8, 147.0
    )


def test_any_csv_is_read_through_a_column_map(tmp_path):
    path = table(tmp_path, rows("n1,ai,2000,2,500", header="Name,Group,Begin,GPU,Took"))
    columns = Columns.parse("id=Name, submit=Begin,gpus=GPU,duration=Took,team=Group,unit=ms")
    assert list(read_jobs(path, columns)) == [TraceJob("n1", 2.0, 2, 0.5, "ai")]


def test_other_columns_of_any_csv_are_none_of_our_business(tmp_path):
    header = "job_id,submit_s,num_gpus,duration_s,u_name,note,note"
    assert len(read_jobs(table(tmp_path, rows("a,0,1,1,jane,?,!", header=header)))) == 1


def test_dates_are_counted_from_the_first_of_them(tmp_path):
    lines = ("a,2024-03-01 12:00:30,1,5", "b,2024-03-01T13:00:00+01:00,1,5")
    trace = read_jobs(table(tmp_path, rows(*lines)))
    assert [(job.id, job.submit_s) for job in trace] == [("b", 0.0), ("a", 30.0)]
    assert trace.started == datetime(2024, 3, 1, 12, tzinfo=UTC)


def test_seconds_since_1970_are_dates_too(tmp_path):
    trace = read_jobs(table(tmp_path, rows("a,1709294400,1,5", "b,1709294460,1,5")))
    assert list(trace.submit_s) == [0, 60]
    assert trace.started == datetime(2024, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("b,1,1,nan", "line 3: duration_s: 'nan' is not a length of time"),
        ("b,1,1,-4", "line 3: duration_s: '-4' is not a length of time"),
        ("b,1,1,inf", "line 3: duration_s: 'inf' is not a length of time"),
        ("b,1,1,", "line 3: duration_s: '' is not a length of time"),
        ("b,1,1,soon", "line 3: duration_s: 'soon' is not a length of time"),
        ("b,1,0,4", "line 3: num_gpus: '0' is not a whole number of GPUs"),
        ("b,1,0.5,4", "line 3: num_gpus: '0.5' is not a whole number of GPUs"),
        ("b,1,-8,4", "line 3: num_gpus: '-8' is not a whole number of GPUs"),
        ("b,1,1e9,4", "line 3: num_gpus: '1e9' is not a whole number of GPUs"),
        ("b,-1,1,4", "line 3: submit_s: '-1' is not a time"),
        ("b,nan,1,4", "line 3: submit_s: 'nan' is not a time"),
        ("b,2024-02-30,1,4", "line 3: submit_s: '2024-02-30' is not a time"),
        (",1,1,4", "line 3: job_id: is empty"),
        (" a ,1,1,4", "line 3: job_id: 'a' is also on line 2"),
        ("b,1,1", "line 3: has 3 fields instead of 4"),
    ],
)
def test_what_is_wrong_is_said_with_file_line_and_field(tmp_path, row, message):
    with pytest.raises(BadInputError, match=rf"jobs\.csv: {message}"):
        read_jobs(table(tmp_path, rows("a,0,1,1", row)))


def test_an_error_names_its_line_far_down_and_past_blank_ones(tmp_path):
    many = [f"{n},{n},1,1" for n in range(70_000)]
    many[69_000] = "69000,69000,0,1"
    with pytest.raises(BadInputError, match="line 69003: num_gpus"):
        read_jobs(table(tmp_path, rows("", *many)))


def test_a_name_that_comes_again_much_later_is_found(tmp_path):
    many = [f"job-{n},{n},1,1" for n in range(70_000)]
    with pytest.raises(BadInputError, match="line 70002: job_id: 'job-7' is also on line 9"):
        read_jobs(table(tmp_path, rows(*many, "job-7,70000,1,1")))


@pytest.mark.parametrize("text", ["", "job_id,submit_s,num_gpus,duration_s\n", rows("a,0,1,0")])
def test_a_trace_without_jobs_is_refused(tmp_path, text):
    with pytest.raises(BadInputError, match=r"jobs\.csv"):
        read_jobs(table(tmp_path, text))


def test_a_missing_column_is_named_with_the_way_out(tmp_path):
    with pytest.raises(BadInputError, match=r"line 1: has no column 'num_gpus'.*say which columns mean what"):
        read_jobs(table(tmp_path, "job_id,submit_s,gpu,duration_s\n1,0,1,1\n"))


def test_a_truncated_packed_trace_is_refused(tmp_path):
    path = table(tmp_path, HOUSE, "jobs.csv.gz")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BadInputError, match="is not whole gzip"):
        read_jobs(path)


@pytest.mark.parametrize("text", ["id", "id=", "when=x", "id=a,id=b", "unit=h"])
def test_a_column_map_that_says_nothing_is_refused(text):
    with pytest.raises(BadInputError, match="columns"):
        Columns.parse(text)


@pytest.mark.parametrize("value", ["1", "-0.1", "nan"])
def test_draws_are_numbers_from_0_to_less_than_1(tmp_path, value):
    header = "job_id,submit_s,num_gpus,duration_s,u_hetero"
    with pytest.raises(BadInputError, match="line 2: u_hetero"):
        read_jobs(table(tmp_path, rows(f"a,0,1,1,{value}", header=header)))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 64), st.integers(1, 10**6)), min_size=1, max_size=30))
def test_no_job_is_lost_and_times_never_fall(tmp_path_factory, jobs):
    lines = [f"{n},{submit},{gpus},{length}" for n, (submit, gpus, length) in enumerate(jobs)]
    trace = read_jobs(table(tmp_path_factory.mktemp("any"), rows(*lines)))
    assert sorted(int(job.id) for job in trace) == list(range(len(jobs)))
    assert np.all(np.diff(trace.submit_s) >= 0)
    assert all((job.submit_s, job.gpus, job.duration_s) == jobs[int(job.id)] for job in trace)


@pytest.mark.slow
def test_memory_grows_by_columns_not_by_rows_of_text(tmp_path):
    path = table(tmp_path, rows(*(f"application_{n:012},{n},1,{n % 977 + 1}" for n in range(200_000))))
    tracemalloc.start()
    trace = read_jobs(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(trace) == 200_000
    # A block of text, and twice the columns while they are joined: far less than an object for each row.
    assert peak < 100e6


def test_draws_are_the_same_everywhere():
    assert draw("fungible", "0") == pytest.approx(0.18127, abs=1e-6)
    assert draw("fungible", "1") == pytest.approx(0.247368, abs=1e-6)


@pytest.mark.realdata
def test_the_15_day_trace_is_read_whole(data_dir):
    trace = read_jobs(data_dir / "cluster/jobs/trace15d_50390.csv.gz")
    assert len(trace) == 50_390
    assert trace.submit_s[0] == 0
    assert trace.submit_s[-1] == pytest.approx(15 * 86400, rel=1e-3)
    assert np.sum(trace.gpus * trace.duration_s) / 86400 == pytest.approx(20_457, rel=1e-3)
    assert trace.draws["elastic"][17] == pytest.approx(draw("elastic", trace[17].id), abs=1e-6)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "jobs"),
    [
        ("jobs/philly_jobs_82247.csv.gz", 82_247),
        ("peer_workloads/muri_trace3.csv", 992),
        ("peer_workloads/tiresias_60_job.csv", 60),
    ],
)
def test_published_traces_are_read_whole(data_dir, name, jobs):
    assert len(read_jobs(data_dir / "cluster" / name)) == jobs
