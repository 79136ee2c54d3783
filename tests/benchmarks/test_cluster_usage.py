"""Where usage is compared is sought honestly, and each arm of the grid stands once."""

from __future__ import annotations

from pathlib import Path

import pytest

import cluster_trace
import cluster_usage
from quiltwork.cluster.policy.rules import POLICIES, Elastic, rules_named
from quiltwork.core.bench import Context
from quiltwork.core.errors import NotFoundError, QuiltworkError
from work.other_traces import COUNT, OFFERED, muri, philly_after, philly_before


@pytest.mark.parametrize("most", [4, 5, 12, 100, 101, 171, 172])
def test_the_size_is_the_largest_that_is_full(most: int) -> None:
    looked: list[int] = []

    def filled(size: int) -> float:
        looked.append(size)
        return cluster_usage.FULL if size <= most else 0.9

    assert cluster_usage.largest_full(filled, 4, 172, 16) == most
    assert len(looked) == len(set(looked))
    assert (max(looked), min(looked) >= 4) == (172, True)


def test_where_no_size_is_full_there_is_nothing_to_compare_at() -> None:
    with pytest.raises(QuiltworkError, match="no size is 95% full"):
        cluster_usage.largest_full(lambda size: 0.949, 4, 172, 16)


def test_switching_everything_on_is_our_policy() -> None:
    assert rules_named("sjf", loaning=True, elastic=Elastic.MARGINAL) == POLICIES["lyra"]
    assert set(cluster_trace.CLAIMED) - set(cluster_trace.grid()) == {cluster_trace.CLAIMED[3]}
    assert len(set(cluster_trace.grid())) == len(cluster_trace.grid()) == 18


def test_without_the_trace_both_say_what_they_need(tmp_path: Path) -> None:
    for benchmark in (cluster_trace, cluster_usage):
        with pytest.raises(NotFoundError, match="needs the trace"):
            benchmark.run(Context(quick=True, seed=0, scratch=tmp_path))


@pytest.mark.realdata
def test_other_traces_share_no_job_with_the_15_days_and_offer_the_same_load(data_dir: Path) -> None:
    before, after, other = philly_before(data_dir), philly_after(data_dir), muri(data_dir)
    assert len(before) + COUNT + len(after) == 82_247
    assert not set(before.ids) & set(after.ids)
    for trace in (before, after, other):
        assert trace.submit_s[0] == 0
        assert (trace.gpus * trace.duration_s).sum() / trace.submit_s[-1] == pytest.approx(OFFERED)


@pytest.mark.realdata
@pytest.mark.slow
def test_the_first_jobs_of_the_trace(data_dir: Path, tmp_path: Path) -> None:
    found = cluster_usage.run(Context(quick=True, seed=0, scratch=tmp_path, data=data_dir))
    assert found.keys() == {claim.name for claim in cluster_usage.CLAIMS}
    assert {row["table"] for row in found[cluster_usage.USAGE].rows} == {"strictly-in-order", "size", "usage"}
    for outcome in found.values():
        assert 0 < outcome.baseline[0] < 1
        assert 0 < outcome.ours[0] < 1
