"""Useful work of a run's first days, from its log."""

from __future__ import annotations

import pytest

from quiltwork.cluster.job import Job
from quiltwork.cluster.log import AGAIN, Action, Row
from quiltwork.cluster.policy.rules import rules_named
from quiltwork.cluster.simulate import simulate, two_clusters
from quiltwork.cluster.speed import Speed, linear
from work.useful import useful_work

TYPES = ("V100", "T4")
LINE = linear({"V100": 1.0, "T4": 0.5}, 8, 1.0)


def useful(log: list[Row], until_s: float, *jobs: Job) -> float:
    return useful_work(log, jobs or (Job("a", 0.0, 1000.0, LINE, w_max=8),), until_s, TYPES)


def started(time: float, gpus: tuple[int, int] = (1, 0), reason: str = "") -> Row:
    return Row(time, Action.START, "a", gpus=gpus, reason=reason)


def test_a_job_that_is_under_way_counts_with_what_it_has_done() -> None:
    log = [started(10), Row(1010, Action.END, "a", cost=1000.0)]
    assert useful(log, 5) == 0
    assert useful(log, 110) == pytest.approx(100)
    assert useful(log, 2000) == 1000


def test_more_workers_and_slow_ones_count_for_what_they_add() -> None:
    log = [started(0), Row(100, Action.SCALE_OUT, "a", gpus=(2, 0)), Row(200, Action.SCALE_IN, "a", gpus=(0, 1))]
    assert useful(log, 150) == pytest.approx(100 + 100)
    assert useful(log, 300) == pytest.approx(100 + 200 + 50)


def test_workers_that_add_little_are_of_little_use() -> None:
    flat = Job("a", 0.0, 1000.0, Speed({"V100": (1.0, 1.1)}), w_max=2)
    assert useful([started(0, (2, 0))], 100, flat) == pytest.approx(110)


def test_work_that_is_lost_was_of_no_use_whenever_it_is_lost() -> None:
    lost = [started(0), Row(200, Action.PREEMPT, "a", cost=200.0), started(300, reason=AGAIN)]
    assert useful(lost, 100) == useful(lost, 250) == 0
    assert useful(lost, 463) == pytest.approx(100)


def test_what_a_checkpoint_kept_was_of_use() -> None:
    kept = [started(0), Row(200, Action.PREEMPT, "a", cost=50.0), started(300, reason=AGAIN)]
    assert useful(kept, 100) == pytest.approx(100)
    assert useful(kept, 180) == useful(kept, 250) == pytest.approx(150)
    again = [*kept, Row(563, Action.PREEMPT, "a", cost=250.0)]
    assert useful(again, 463) == pytest.approx(100)


def test_all_work_is_useful_by_the_end_of_a_run() -> None:
    jobs = [Job(f"j{n}", 20.0 * n, 500.0 + n, LINE, w_min=2, w_max=4, fungible=n % 2 == 0, hetero=True, believed=500.0)
            for n in range(12)]  # fmt: skip
    need = [0.0, 0.0, 0.9, 0.0]
    log = simulate(two_clusters(1, 2, gpus=4), jobs, rules_named("lyra", min_lease_s=0.0), need=need)
    assert any(row.action is Action.LOAN for row in log)
    end = log[-1].time
    assert useful_work(log, jobs, end, TYPES) == pytest.approx(sum(job.work for job in jobs))
    at = [useful_work(log, jobs, end * part / 10, TYPES) for part in range(11)]
    assert at == sorted(at)
