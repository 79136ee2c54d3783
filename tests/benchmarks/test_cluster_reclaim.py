"""Plans that are compared do what was asked, and none is better than the proven best."""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path

import pytest

import cluster_reclaim
from quiltwork.cluster.policy.reclaim import Held, Plan
from quiltwork.core.bench import Context
from quiltwork.core.errors import QuiltworkError
from work.fewest import fewest
from work.gangs import SERVERS, Family, instance

SHARED = {1: Held({0: 4, 1: 4}), 2: Held({0: 4}), 3: Held({1: 8}), 4: Held({2: 1})}


def test_a_plan_that_leaves_somebody_on_a_server_is_found_out() -> None:
    cluster_reclaim.check(SHARED, 2, Plan((2, 4), (0, 2)))
    with pytest.raises(QuiltworkError, match="not empty"):
        cluster_reclaim.check(SHARED, 2, Plan((1, 2), (0,)))
    with pytest.raises(QuiltworkError, match="gives back 1 of 2"):
        cluster_reclaim.check(SHARED, 2, Plan((2,), (0,)))


def test_batches_are_of_different_instances_and_leave_none_out() -> None:
    assert cluster_reclaim.batched([1, 2, 3, 4, 5, 6], 3) == [2.5, 3.5, 4.5]
    assert cluster_reclaim.batched([1, 2], 3) == [1, 2]


@pytest.mark.parametrize("number", range(1_000_000, 1_000_004))
def test_the_fewest_is_what_trying_all_finds(number: int) -> None:
    lent = {s: held for s, held in instance(20, number).items() if s < 7}
    jobs = sorted({job for held in lent.values() for job in held.base})
    tried = next(
        count
        for count in range(len(jobs) + 1)
        for stopped in combinations(jobs, count)
        if sum(held.base.keys() <= set(stopped) for held in lent.values()) >= 3
    )
    found = fewest(lent, 3, limit_s=30.0)
    assert found.proven
    assert found.found == tried


@pytest.mark.slow
def test_the_quick_run_settles_every_claim_and_nobody_is_better_than_the_optimum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_reclaim, "LIMIT_S", 1.0)
    monkeypatch.setattr(cluster_reclaim, "POLISH_S", 1.0)
    found = cluster_reclaim.run(Context(quick=True, seed=0, scratch=tmp_path))
    assert set(found) == {claim.name for claim in cluster_reclaim.CLAIMS}
    rows = found[cluster_reclaim.RANDOM].rows
    for family, servers in product(Family, SERVERS):
        arms = {row["arm"]: row["preempted"] for row in rows if (row["gangs"], row["servers"]) == (family, servers)}
        assert min(arms.values()) == arms[cluster_reclaim.BOUND]
        for cost in ("random", "fewest jobs", "server fraction", "GPU fraction"):
            assert arms[f"{cost}, with a last look"] <= arms[cost]
        for choice in ("random", "fewest jobs"):
            assert arms[choice] <= arms[f"{choice}, all at once"]
        assert arms["ours, with CP-SAT"] <= arms["ours"]
