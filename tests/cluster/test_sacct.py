"""Jobs of a Slurm cluster."""

from __future__ import annotations

import pytest

from quiltwork.cluster.traces import TraceJob, read_jobs
from quiltwork.core.errors import BadInputError

HEADER = "JobID|JobName|Account|Submit|Start|End|Elapsed|State|AllocTRES|ReqTRES"
DONE = "2024-03-01T10:00:00|2024-03-01T10:05:00|2024-03-01T11:05:00|01:00:00|COMPLETED"
GPUS = "billing=8,cpu=8,gres/gpu=4,gres/gpu:a100=4,mem=64G,node=1"


def sacct(tmp_path, *rows, header=HEADER):
    path = tmp_path / "jobs.txt"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_a_finished_job_has_its_gpus_its_elapsed_time_and_its_account(tmp_path):
    trace = read_jobs(sacct(tmp_path, f'101|train "x|vision|{DONE}|{GPUS}|'))
    assert list(trace) == [TraceJob("101", 0.0, 4, 3600.0, "vision")]


def test_steps_and_jobs_that_tell_nothing_are_left_out_and_counted(tmp_path):
    trace = read_jobs(
        sacct(
            tmp_path,
            f"101|a|vision|{DONE}|{GPUS}|",
            f"101.batch|batch|vision|{DONE}|{GPUS}|",
            f"101.0|python|vision|{DONE}|{GPUS}|",
            "102|b|vision|2024-03-01T10:00:00|None|2024-03-01T10:01:00|00:00:00|CANCELLED by 7||gres/gpu=1",
            "103_[4-9]|c|vision|2024-03-01T10:00:00|Unknown|Unknown|00:00:00|PENDING||gres/gpu=1",
            "104|d|vision|2024-03-01T10:00:00|2024-03-01T10:00:00|Unknown|02:00:00|RUNNING|gres/gpu=1|gres/gpu=1",
            f"105|e|vision|{DONE}|cpu=4,mem=1G,gres/shard=2|cpu=4",
        )
    )
    assert [job.id for job in trace] == ["101"]
    assert [note for note in trace.notes if note.startswith("left out")] == [
        "left out: 2 job steps",
        "left out: 2 jobs that never started",
        "left out: 1 jobs that had not ended",
        "left out: 1 jobs without whole GPUs",
    ]


@pytest.mark.parametrize(
    ("elapsed", "seconds"),
    [("00:00:07", 7), ("02:03", 123), ("1-02:03:04", 93784), ("00:01:02.5", 62.5), ("12-00:00:00", 12 * 86400)],
)
def test_elapsed_time_may_have_days_and_fractions(tmp_path, elapsed, seconds):
    row = f"1|a|x|2024-03-01T10:00:00|2024-03-01T10:00:00|2024-03-14T10:00:00|{elapsed}|COMPLETED|gres/gpu=1|"
    assert read_jobs(sacct(tmp_path, row))[0].duration_s == seconds


@pytest.mark.parametrize(
    ("alloc", "requested", "gpus"),
    [("gres/gpu=2", "gres/gpu=4", 2), ("", "gres/gpu=4", 4), ("gres/gpu:a100=2,gres/gpu:t4=1", "", 3)],
)
def test_gpus_given_count_before_gpus_asked_for_and_types_are_summed(tmp_path, alloc, requested, gpus):
    assert read_jobs(sacct(tmp_path, f"1|a|x|{DONE}|{alloc}|{requested}"))[0].gpus == gpus


def test_without_elapsed_it_is_from_start_to_end(tmp_path):
    header = "JobID|User|Submit|Start|End|ReqTRES"
    row = "1|jane|2024-03-01T10:00:00|2024-03-01T10:00:10|2024-03-01T10:01:00|gres/gpu=1"
    assert list(read_jobs(sacct(tmp_path, row, header=header))) == [TraceJob("1", 0.0, 1, 50.0, "jane")]


def test_times_may_be_seconds_since_1970(tmp_path):
    rows = [f"{n}|a|x|{1709294400 + n}|{1709294500}|{1709294600}|00:01:00|COMPLETED|gres/gpu=1|" for n in (5, 0)]
    assert [(job.id, job.submit_s) for job in read_jobs(sacct(tmp_path, *rows))] == [("0", 0.0), ("5", 5.0)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f"1|a|x|{DONE.replace('01:00:00', 'long')}|gres/gpu=1|", "line 3: Elapsed: 'long' is not a length of time"),
        (f"1|a|x|{DONE.replace('2024-03-01T10:00', '2024-03-41T10:00')}|gres/gpu=1|", "line 3: Submit"),
        (f"9|a|x|{DONE}|gres/gpu=1|", "line 3: JobID: '9' is also on line 2"),
        (f"1|a|x|{DONE}|gres/gpu=99999999|", "line 3: AllocTRES: asks for 99,999,999 GPUs"),
        (f"1|a|b|x|{DONE}|gres/gpu=1|", "line 3: has 11 fields instead of 10"),
    ],
)
def test_what_is_wrong_is_said_with_line_and_field(tmp_path, row, message):
    with pytest.raises(BadInputError, match=message):
        read_jobs(sacct(tmp_path, f"9|a|x|{DONE}|gres/gpu=1|", row))


def test_a_job_that_ends_before_it_starts_is_refused(tmp_path):
    header = "JobID|Submit|Start|End|ReqTRES"
    row = "1|2024-03-01T10:00:00|2024-03-01T10:00:10|2024-03-01T10:00:00|gres/gpu=1"
    with pytest.raises(BadInputError, match="line 2: End: ends 10 s before it starts"):
        read_jobs(sacct(tmp_path, row, header=header))


def test_a_missing_column_is_named_with_the_command_that_prints_it(tmp_path):
    with pytest.raises(BadInputError, match=r"no column 'AllocTRES'.*sacct --parsable2"):
        read_jobs(sacct(tmp_path, header="JobID|Submit|Elapsed"))
