"""A process that is killed, or runs out of disk, at any step of an addition leaves a sound zoo behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from quiltwork.zoo import Zoo

ADDER = str(Path(__file__).with_name("adder.py"))


def run(*arguments):
    return subprocess.run(
        [sys.executable, ADDER, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


def object_files(zoo):
    return {p.parent.name + p.name for p in (zoo.path / "objects").rglob("*") if p.is_file()}


@pytest.fixture
def prepared(tmp_path, adder):
    """A zoo with one model, and the files it has."""
    with Zoo(tmp_path / "zoo") as zoo:
        adder.put(zoo, "old", 1)
        yield zoo, object_files(zoo)


def steps_of_an_addition(path):
    done = run(path, "new", 2, "--base", "old")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_kill_at_every_step_of_an_addition_loses_nothing(prepared, tmp_path, adder):
    zoo, before = prepared
    old = zoo.model("old")
    zoo.close()
    with Zoo(tmp_path / "count") as scratch:
        adder.put(scratch, "old", 1)
    total = steps_of_an_addition(tmp_path / "count")
    reached = set()
    for step in range(1, total + 1):
        killed = run(zoo.path, "new", 2, "--base", "old", "--stop-at", step)
        assert killed.returncode == -9
        reached.add(killed.stdout.strip())
        with Zoo(zoo.path) as after:
            assert list((zoo.path / "tmp").iterdir()) == []
            assert after.fsck() == []
            assert after.model("old") == old
            if killed.stdout.strip() == "committed":
                assert len(after.models()) == 2
            else:
                assert [ref.name for ref in after.models()] == ["old"]
                assert object_files(after) == before
    assert reached == {"object", "object written", "commit", "object placed", "rows inserted", "committed"}
    assert adder.put(zoo, "new", 2, base="old")[1].already


def test_garbage_of_a_killed_addition_is_collected_while_the_zoo_stays_open(prepared):
    zoo, before = prepared
    assert run(zoo.path, "new", 2, "--stop-at", 14).stdout.strip() == "object placed"
    assert list((zoo.path / "tmp").iterdir()) != []
    freed = zoo.gc()
    assert freed.objects == 0
    assert list((zoo.path / "tmp").iterdir()) == []
    assert object_files(zoo) == before


def test_kill_at_every_step_of_a_collection_loses_nothing(prepared, adder):
    zoo, before = prepared
    old, step, reached = zoo.model("old"), 0, set()
    while True:
        adder.put(zoo, "new", 2, base="old")
        step += 1
        result = run(zoo.path, "new", 2, "--remove", "--stop-at", step)
        if result.returncode == 0:
            break
        assert result.returncode == -9
        reached.add(result.stdout.strip())
        with Zoo(zoo.path) as after:
            assert after.fsck() == []
            assert after.models() == [old.ref]
            assert after.model("old") == old
        assert result.stdout.strip() == "collect" or object_files(zoo) == before
    assert reached == {"collect", "rows deleted", "file removed"}


def test_a_disk_that_is_full_at_any_point_leaves_nothing(prepared):
    zoo, before = prepared
    limit, failures = 64, 0
    while (result := run(zoo.path, "new", 2, "--base", "old", "--file-limit", limit)).returncode:
        assert result.returncode == 7, result.stderr
        assert "the disk is full" in result.stdout
        assert (object_files(zoo), [ref.name for ref in zoo.models()]) == (before, ["old"])
        assert list((zoo.path / "tmp").iterdir()) == []
        assert zoo.fsck() == []
        limit, failures = limit * 2, failures + 1
    assert failures >= 4
    assert len(zoo.models()) == 2
    assert zoo.fsck() == []
