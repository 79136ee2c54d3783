"""Epochs are timed with the whole queue in place, and the division of GPUs is held against exact solvers."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

import cluster_epoch
from quiltwork.cluster.policy.knapsack import allocate, allocate_exactly
from quiltwork.cluster.policy.rules import rules_named
from quiltwork.core.bench import Context
from work.epochs import QUEUE_AT, Load, World, jobs_of, measured
from work.menus import best_by_cp_sat, menus_of

SMALL = Load(queued=300, servers=40)


def test_the_cluster_is_full_before_the_queue_comes() -> None:
    jobs = jobs_of(SMALL, 10, "0")
    running = [job for job in jobs if job.submit_s < QUEUE_AT]
    assert sum(job.w_min for job in running) >= SMALL.servers * 8
    assert sum(job.submit_s == QUEUE_AT for job in jobs) == SMALL.queued
    assert len(jobs) == len(running) + SMALL.queued + 10


@pytest.mark.parametrize("policy", ["sjf+loan", "lyra"])
def test_the_queue_is_in_place_while_epochs_are_timed(policy: str) -> None:
    ticks = itertools.count()
    found = measured(SMALL, rules_named(policy), epochs=25, seed="0", clock=lambda: float(next(ticks)))
    # By this clock, whatever is timed as one takes a second.
    assert found.epochs_s == [1.0] * 25
    assert found.cold_s == 1.0
    assert found.left > 0.6 * SMALL.queued
    assert found.started >= 0
    assert bool(found.elastic) is (policy == "lyra")


def test_every_job_comes_and_ends_when_it_should() -> None:
    jobs = jobs_of(SMALL, 10, "0")
    filling = [job for job in jobs if job.submit_s < QUEUE_AT]
    world = World(SMALL, rules_named("sjf+loan"), clock=lambda: 0.0)
    world.come(filling)
    world.come(jobs[len(filling) : len(filling) + SMALL.queued])
    running = {number: run.job for number, run in world.cluster.runs.items()}
    first = min(job.work / job.speed.on("V100", job.w_min) for job in running.values())
    assert world.next_end() >= first
    before = set(world.cluster.runs)
    world.end()
    (ended,) = before - set(world.cluster.runs)
    assert world.now == pytest.approx(world.cluster.log[-1].time)
    assert ended not in world.cluster.waiting


@pytest.mark.parametrize(("share", "value"), [(0.5, 2), (0.99, 4), (1.0, 4), (0.01, 1)])
def test_a_quantile_is_a_value_that_was_seen(share: float, value: float) -> None:
    assert cluster_epoch.quantile([3, 1, 4, 2], share) == value


def test_dynamic_programming_and_cp_sat_agree_on_what_is_best() -> None:
    menus, weights, scale = menus_of(30, seed="test")
    exact = allocate_exactly(menus, weights, 100, scale=scale)
    best, proven = best_by_cp_sat(menus, weights, 100, scale, limit_s=30.0)
    assert proven
    assert best == pytest.approx(exact.value, rel=1e-6)
    found = allocate(menus, weights, 100, scale=scale)
    assert found.value <= exact.value * (1 + 1e-9)
    assert found.bound >= exact.value * (1 - 1e-9)


@pytest.mark.slow
def test_the_quick_run_settles_every_claim(tmp_path: Path) -> None:
    found = cluster_epoch.run(Context(quick=True, seed=0, scratch=tmp_path))
    assert set(found) == {claim.name for claim in cluster_epoch.CLAIMS}
    for outcome in found.values():
        assert min(*outcome.ours, *outcome.baseline) > 0
    assert {row["epoch"] for row in found[cluster_epoch.EPOCH].rows} == set(cluster_epoch.SHARING)
    gap = found[cluster_epoch.GAP]
    assert all(ours <= most for ours, most in zip(gap.ours, gap.baseline, strict=True))
