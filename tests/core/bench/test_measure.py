from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from quiltwork.core.bench import Benchmark, Claim, Outcome, at_least, measure, read, write
from quiltwork.core.errors import QuiltworkError

CLAIM = Claim("room.speed", "room", "t", at_least(2.0), "baseline/ours", "s")
GOOD = {"room.speed": Outcome([1.0], [3.0], rows=[{"a": 1}])}


def measured(run, path=Path("/nowhere/benchmarks/speed.py"), **settings):
    settings = {"quick": False, "seed": 0, "data": None, "command": "quiltwork bench run room.speed"} | settings
    return measure(Benchmark(path, (CLAIM,), run), **settings)


def test_a_record_says_under_which_circumstances(tmp_path):
    (record,) = measured(lambda c: GOOD, now=lambda: datetime(2026, 1, 2, tzinfo=UTC))
    assert record.started == "2026-01-02T00:00:00+00:00"
    assert record.machine["cores"] >= 1
    assert record.machine["memory_bytes"] > 2**20
    assert {"python", "numpy", "quiltwork"} <= set(record.versions)
    assert len(record.load["average_before"]) == 3
    assert record.load["others_cores"] >= 0
    assert record.git == {"commit": None, "dirty": None}
    assert read(write(tmp_path, record)).outcome.ours == (1.0,)


def test_the_commit_is_that_of_the_project():
    here = Path(__file__).resolve().parents[3]
    (record,) = measured(lambda c: GOOD, here / "benchmarks" / "speed.py")
    assert record.git["commit"] is None or len(record.git["commit"]) == 40


def test_a_run_gets_its_conditions_and_an_empty_folder_that_goes_afterwards(tmp_path):
    seen = []

    def run(context):
        seen.append((context.quick, context.seed, context.data, context.scratch, list(context.scratch.iterdir())))
        (context.scratch / "left").write_text("x")
        context.progress("half")
        return GOOD

    said = []
    measured(run, quick=True, seed=7, data=tmp_path, progress=said.append)
    ((quick, seed, data, scratch, content),) = seen
    assert (quick, seed, data, content, said) == (True, 7, tmp_path, [], ["half"])
    assert not scratch.exists()


@pytest.mark.parametrize("outcomes", [{}, {"room.other": GOOD["room.speed"]}, GOOD | {"room.more": GOOD["room.speed"]}])
def test_a_run_settles_exactly_what_is_declared(outcomes):
    with pytest.raises(QuiltworkError, match=r"speed\.py: run\(\) settles other claims"):
        measured(lambda c: outcomes)


def test_a_package_missing_in_a_run_is_named():
    def run(context):
        import a_package_nobody_has  # noqa: F401

    with pytest.raises(QuiltworkError, match="needs the package 'a_package_nobody_has'"):
        measured(run)
