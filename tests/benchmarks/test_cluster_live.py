"""Costs are read off a run's log as they were put into it, and the simulator with them gives the run again."""

from __future__ import annotations

from pathlib import Path

import pytest

import cluster_live
from quiltwork.cluster.log import Action
from quiltwork.cluster.policy.rules import rules_named
from quiltwork.core.bench import Context
from work.live_costs import Costs, costs_of, jct_of, simulated
from work.live_run import LiveRun, Took
from work.paced_jobs import BATCH, SAMPLE_S, PacedJob, need_of, paced_jobs, servers_of

COSTS = Costs({1: 1.2, 2: 0.6}, 4.0, 0.5, 0.0, 0.25, 0.0, 1.0)
EVERY = {"share_every_s": 15.0, "loans_every_s": 10.0}


def test_jobs_are_the_same_for_a_seed_and_others_for_another() -> None:
    jobs = paced_jobs(48, "a", *cluster_live.REPORTED_S)
    assert jobs == paced_jobs(48, "a", *cluster_live.REPORTED_S)
    assert jobs != paced_jobs(48, "b", *cluster_live.REPORTED_S)
    assert [job.at for job in jobs] == sorted(job.at for job in jobs)
    seconds = [job.steps * job.step_s for job in jobs]
    assert 39 < min(seconds) <= max(seconds) < 241
    assert {job.w_max > job.w_min for job in jobs if job.trainable} == {True, False}
    assert all(job.w_max == job.w_min for job in jobs if not job.trainable)


def test_costs_are_read_off_a_run_as_they_were_put_into_it() -> None:
    """A run of one trainable and one command that nothing happens to, written down by the simulator."""
    jobs = [PacedJob("t", 0.0, True, 1, 1, 50, False), PacedJob("c", 5.0, False, 2, 2, 60, False)]
    servers = servers_of(2, 1, 2)
    rows = simulated(servers, jobs, need_of(100), rules_named("lyra"), COSTS, **EVERY)
    start = {row.job: row.time for row in rows if row.action is Action.START}
    # The trainable's first step ends after three seconds of starting, its end comes one after the last.
    steps = [Took(start["t"] + 3.0 + 1.2 * n, n, 1) for n in range(1, 51)]
    begun = [(start["c"] + 0.3, 0)] * 2
    run = LiveRun(rows, {"t": "t", "c": "c"}, {"t": steps, "c": []}, {"t": [], "c": begun}, jct_of(rows), 100.0, 0.5)
    found = costs_of(run, jobs)
    assert found.step_s == pytest.approx({1: BATCH * SAMPLE_S})
    assert (found.trainable_s, found.command_s) == pytest.approx((4.0, 0.5))
    assert jct_of(rows) == pytest.approx({"t": 4.0 + 50 * 1.2, "c": 0.5 + 60 * 0.5})
    again = simulated(servers, jobs, need_of(100), rules_named("lyra"), found, **EVERY)
    assert jct_of(again) == pytest.approx(jct_of(rows))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_quick_run_holds_every_job_against_itself(tmp_path: Path) -> None:
    found = cluster_live.run(Context(quick=True, seed=0, scratch=tmp_path))[cluster_live.ERROR]
    assert len(found.rows) == 5
    assert all(float(str(row["live s"])) >= float(str(row["steps s"])) * 0.3 for row in found.rows)
    errors = [float(str(row["error"])) for row in found.rows]
    assert found.ours == pytest.approx([1 + sum(errors) / 5], abs=1e-3)
