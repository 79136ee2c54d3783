"""Muri's simulator is run as it is but for its start overheads, and ours on the same work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import cluster_muri
from quiltwork.core.bench import Context, judge
from quiltwork.core.errors import NotFoundError, QuiltworkError
from work.muri import VARIABLE, completion_times, jobs, simulator

TRACE = """job_id,num_gpu,submit_time,iterations,model_name,batch_size,duration,interval,iteration_time
long,64,0,1000,bert,4,1000000,0,1000
short,64,200000,100,bert,4,100000,0,1000
"""
STAND_IN = """
import csv, os, sys
overhead_dict = {1: {"bert": 10}, 64: {"bert": 10, "dqn": 5}}
def main():
    if any(value for table in overhead_dict.values() for value in table.values()):
        raise SystemExit("overheads")
    given = dict(part[2:].split("=", 1) for part in sys.argv[1:])
    assert (given["schedule"], given["scheme"]) == ("shortest", "yarn")
    assert open(given["cluster_spec"]).read().split()[1].startswith("1,8,8")
    os.makedirs(given["log_path"])
    with open(given["log_path"] + "/job.csv", "w") as file:
        file.write("time,job_id,JCT\\n")
        for row in csv.DictReader(open(given["trace_file"])):
            file.write(f"0,{row['job_id']},{7.5}\\n")
"""


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "cluster" / "peer_workloads" / "muri_trace3.csv"
    path.parent.mkdir(parents=True)
    path.write_text(TRACE)
    return path


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    folder = tmp_path / "muri" / "simulator"
    folder.mkdir(parents=True)
    (folder / "run_sim.py").write_text(STAND_IN)
    return folder


def test_jobs_take_as_long_as_their_iterations(trace: Path) -> None:
    long, short = jobs(trace)
    assert (long.w_min, long.submit_s, long.seconds(long.work, "V100")) == (64, 0.0, pytest.approx(1015.0))
    assert (short.submit_s, short.seconds(short.work, "V100")) == (200.0, pytest.approx(101.5))


def test_the_shorter_goes_first_and_the_longer_goes_on_where_it_was(trace: Path, tmp_path: Path) -> None:
    times, _ = cluster_muri.simulated(Context(quick=True, seed=0, scratch=tmp_path), trace)
    assert times == {"long": pytest.approx(1015.0 + 101.5), "short": pytest.approx(101.5)}


def test_nothing_of_the_peer_is_changed_but_its_overheads(trace: Path, stand_in: Path, tmp_path: Path) -> None:
    assert simulator({VARIABLE: str(stand_in)}) == simulator({VARIABLE: str(stand_in.parent)}) == stand_in
    times, seconds = completion_times(stand_in, trace, tmp_path, {})
    assert times == {"long": 7.5, "short": 7.5}
    assert seconds > 0


def test_what_the_peer_says_when_it_fails_is_told(trace: Path, stand_in: Path, tmp_path: Path) -> None:
    (stand_in / "run_sim.py").write_text("import no_such_package")
    with pytest.raises(QuiltworkError, match="no_such_package"):
        completion_times(stand_in, trace, tmp_path, {})


def test_being_faster_counts_as_much_as_being_slower(
    trace: Path, stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(stand_in))
    context = Context(quick=True, seed=0, scratch=tmp_path, data=tmp_path)
    for seconds, met in ((7.5, True), (7.55, True), (7.7, False), (7.3, False)):
        monkeypatch.setattr(cluster_muri, "simulated", lambda *_, s=seconds: ({"long": s, "short": s}, 0.1))
        found = cluster_muri.run(context)[cluster_muri.JCT]
        assert judge(cluster_muri.CLAIMS[0], found).met is met
        assert found.ours[0] >= 1
        (tmp_path / "muri-muri_trace3" / "job.csv").unlink()
        (tmp_path / "muri-muri_trace3").rmdir()


def test_without_the_peer_one_line_says_what_to_do_and_what_was_last_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_muri, "RECORDS", tmp_path)
    for value in ("", str(tmp_path)):
        monkeypatch.setenv(VARIABLE, value)
        with pytest.raises(NotFoundError, match=r"^QUILTWORK_MURI=.*never measured.*\(set the variable") as caught:
            cluster_muri.run(Context(quick=True, seed=0, scratch=tmp_path, data=tmp_path))
        assert "\n" not in str(caught.value)


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no simulator of Muri's")
def test_muri(data_dir: Path, tmp_path: Path) -> None:
    found = cluster_muri.run(Context(quick=True, seed=0, scratch=tmp_path, data=data_dir))[cluster_muri.JCT]
    assert {row["jobs"] for row in found.rows} == {992}
    assert found.ours[0] >= 1
