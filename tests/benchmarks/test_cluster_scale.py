"""The paper's cluster: all arms do the same work, and the quick run goes through."""

from __future__ import annotations

from pathlib import Path

import pytest

from quiltwork.core.bench import Context


@pytest.mark.realdata
@pytest.mark.slow
def test_the_quick_run_compares_three_arms_on_the_same_tokens(data_dir: Path, tmp_path: Path) -> None:
    import cluster_scale

    found = cluster_scale.run(Context(quick=True, seed=0, scratch=tmp_path, data=data_dir))
    assert set(found) == {cluster_scale.P95, cluster_scale.UTILISATION}
    compared = [row for row in found[cluster_scale.P95].rows if row["part"] == "compared"]
    assert [row["arm"] for row in compared] == ["models", "adapters", "blocks"]
    for row in compared:
        assert row["refused"] == 0
        assert 0 < row["efficiency"] <= 1
        assert 0 < row["busy"] <= 1


@pytest.mark.realdata
def test_the_fleet_grows_with_its_tenants_but_for_its_two_bases(data_dir: Path, tmp_path: Path) -> None:
    from work.cluster import bed

    context = Context(quick=True, seed=0, scratch=tmp_path, data=data_dir)
    for tenants in (None, 20, 100):
        world = bed(context, 10, tenants=tenants).world
        assert len(world.apps) == (tenants or 20)
        assert sum("base" in app for app in world.apps) == 2
    assert [len(world.cluster(n).devices) for n in (4, 8, 32)] == [12, 24, 96]
