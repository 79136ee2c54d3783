"""Epochs are timed with the whole queue in place, and the division of GPUs is held against exact solvers."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

import cluster_epoch
from quiltwork.cluster.policy.knapsack import allocate, allocate_exactly
from quiltwork.cluster.policy.rules import rules_named
from quiltwork.core.bench import Context
from work.epochs import QUEUE_AT, Load, Timed, jobs_of, measured
from work.menus import best_by_cp_sat, menus_of

SMALL = Load(queued=300, servers=40)


def test_the_cluster_is_full_before_the_queue_comes() -> None:
    jobs = jobs_of(SMALL, 10, "0")
    running = [job for job in jobs if job.submit_s < QUEUE_AT]
    assert sum(job.w_min for job in running) >= SMALL.servers * 8
    assert sum(job.submit_s == QUEUE_AT for job in jobs) == SMALL.queued
    assert len(jobs) == len(running) + SMALL.queued + 10


def test_every_epoch_counts_with_what_led_to_it() -> None:
    ticks = itertools.count()
    found = measured(SMALL, rules_named("sjf+loan"), epochs=25, seed="0", clock=lambda: float(next(ticks)))
    assert len(found.epochs_s) == 25
    # By this clock each part of an epoch takes one second: the decision, and what ended or came before it.
    assert min(found.epochs_s) >= 2
    assert found.cold_s == SMALL.queued + 1


def test_the_queue_is_in_place_while_epochs_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[int] = []
    decide = Timed._decide

    def watched(self: Timed) -> None:
        try:
            decide(self)
        finally:
            if self.now > QUEUE_AT:
                waiting.append(self._queued)

    monkeypatch.setattr(Timed, "_decide", watched)
    measured(SMALL, rules_named("lyra"), epochs=25, seed="0", clock=lambda: 0.0)
    assert len(waiting) == 25
    assert min(waiting) > 0.6 * SMALL.queued


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
