"""Checkpoints: what was written is read, and what is not whole is passed over."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from quiltwork.cluster.elastic import checkpoint as module
from quiltwork.cluster.elastic.checkpoint import Progress, newest, read_checkpoint, write_checkpoint
from quiltwork.cluster.elastic.course import Course
from quiltwork.cluster.elastic.message import Checkpointed, NotCheckpointed
from quiltwork.cluster.elastic.saving import Saver
from quiltwork.cluster.spec import Checkpoint
from quiltwork.core.errors import BadInputError, CapacityError, CorruptionError
from quiltwork.core.trainable import State

COURSE = Course(8, 16, 32, 3)


def state(value=1.0):
    arrays = {
        "w": np.full((3, 4), value, np.float32),
        "half": np.arange(5, dtype=np.uint16),
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "scalar": np.array(value),
        "none": np.zeros((0, 2), np.int64),
        "flag": np.array([True, False]),
    }
    return State(arrays, {"bfloat16": ["half"], "rng": {"state": 2**100}})


def skipped_nothing(what):
    raise AssertionError(what)


def same(a: State, b: State) -> bool:
    kinds = all(a.arrays[name].dtype == b.arrays[name].dtype for name in a.arrays)
    return (
        a.arrays.keys() == b.arrays.keys()
        and kinds
        and a.meta == b.meta
        and all(np.array_equal(a.arrays[name], b.arrays[name]) for name in a.arrays)
    )


def test_state_and_progress_come_back_and_can_be_written_to(tmp_path):
    path = write_checkpoint(tmp_path / "new" / "folder", state(), Progress(120, False, COURSE))
    found = newest(tmp_path / "new" / "folder", skipped_nothing)
    assert found.path == path
    assert same(found.state, state())
    assert found.progress == Progress(120, False, COURSE)
    assert all(array.flags.writeable for array in found.state.arrays.values())


def test_the_last_two_are_kept_and_the_result_beside_them(tmp_path):
    for done in (2, 10, 9, 11):
        write_checkpoint(tmp_path, state(done), Progress(done))
    write_checkpoint(tmp_path, state(12), Progress(12, True), result=True)
    names = sorted(path.name for path in tmp_path.glob("*.json"))
    assert names == ["result.json", "step-000000010.json", "step-000000011.json"]
    assert len(list(tmp_path.iterdir())) == 6
    assert newest(tmp_path, skipped_nothing).progress == Progress(12, True)


def test_a_checkpoint_that_is_written_again_takes_the_place_of_the_first(tmp_path):
    write_checkpoint(tmp_path, state(1), Progress(5))
    write_checkpoint(tmp_path, state(2), Progress(5))
    assert same(newest(tmp_path, skipped_nothing).state, state(2))


def cut_tensors(folder, stem):
    (path,) = folder.glob(f"{stem}-*.safetensors")
    os.truncate(path, path.stat().st_size - 7)


def change_tensors(folder, stem):
    (path,) = folder.glob(f"{stem}-*.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def lose_tensors(folder, stem):
    (path,) = folder.glob(f"{stem}-*.safetensors")
    path.unlink()


def cut_description(folder, stem):
    os.truncate(folder / f"{stem}.json", 40)


def empty_description(folder, stem):
    os.truncate(folder / f"{stem}.json", 0)


def point_elsewhere(folder, stem):
    path = folder / f"{stem}.json"
    told = json.loads(path.read_text())
    told["tensors"]["file"] = "../" + told["tensors"]["file"]
    path.write_text(json.dumps(told))


@pytest.mark.parametrize(
    "spoil", [cut_tensors, change_tensors, lose_tensors, cut_description, empty_description, point_elsewhere]
)
def test_one_that_is_not_whole_is_told_and_the_one_before_counts(tmp_path, spoil):
    for done in (1, 2):
        write_checkpoint(tmp_path, state(done), Progress(done))
    spoil(tmp_path, "step-000000002")
    told = []
    found = newest(tmp_path, told.append)
    assert found.progress.done == 1
    assert same(found.state, state(1))
    assert len(told) == 1
    assert "step-000000002" in told[0]
    with pytest.raises(CorruptionError):
        read_checkpoint(tmp_path / "step-000000002.json")


def test_no_folder_and_an_empty_one_hold_no_checkpoint(tmp_path):
    assert newest(tmp_path, skipped_nothing) is None
    assert newest(tmp_path / "none", skipped_nothing) is None


def full_disk(monkeypatch, fails):
    """Have writes of files whose name ``fails`` accepts find no space, after a few bytes."""
    write = module.write_synced

    def written(path, pieces):
        if fails(path.name):
            path.write_bytes(b"some")
            path.unlink()
            raise OSError(28, "No space left on device")
        return write(path, pieces)

    monkeypatch.setattr(module, "write_synced", written)


@pytest.mark.parametrize("ending", [".safetensors", ".json"])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, ending):
    write_checkpoint(tmp_path, state(1), Progress(1))
    before = sorted(path.name for path in tmp_path.iterdir())
    full_disk(monkeypatch, lambda name: ending in name)
    with pytest.raises(CapacityError, match="the disk is full"):
        write_checkpoint(tmp_path, state(2), Progress(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert newest(tmp_path, skipped_nothing).progress.done == 1


def test_training_hears_one_line_of_a_full_disk_and_goes_on(tmp_path, monkeypatch):
    told, now = [], 0.0
    saver = Saver(Checkpoint(str(tmp_path), interval_s=10.0), lambda: now, told.append)
    full_disk(monkeypatch, lambda name: True)
    assert saver.save_now(state, Progress(3)) is None
    assert told == [NotCheckpointed(3, f"{tmp_path}: the disk is full (free some space; nothing was changed)")]
    monkeypatch.undo()
    assert saver.save_now(state, Progress(4)) == str(tmp_path / "step-000000004.json")
    assert told[1:] == [Checkpointed(4, str(tmp_path / "step-000000004.json"))]


def test_the_interval_counts_from_the_last_checkpoint(tmp_path):
    now, told = [0.0], []
    saver = Saver(Checkpoint(str(tmp_path), interval_s=10.0), lambda: now[0], told.append)
    saver.begin()
    now[0] = 9.0
    assert not saver.due()
    now[0] = 10.0
    assert saver.due()
    saver.save(state, Progress(7))
    saver.close()
    assert told == [Checkpointed(7, str(tmp_path / "step-000000007.json"))]
    assert not saver.due()
    now[0] = 20.0
    assert saver.due()


def test_a_state_that_is_on_the_disk_is_not_written_again(tmp_path):
    told = []
    saver = Saver(Checkpoint(str(tmp_path)), lambda: 0.0, told.append)
    saver.save_now(state, Progress(7))
    saver.save_now(state, Progress(7))
    assert len(told) == 1
    again = Saver(Checkpoint(str(tmp_path)), lambda: 0.0, told.append)
    assert again.restore().progress.done == 7
    again.save_now(state, Progress(7))
    assert len(told) == 1


def test_an_array_that_safetensors_cannot_hold_is_named(tmp_path):
    with pytest.raises(BadInputError, match="state: z: safetensors has no complex128"):
        write_checkpoint(tmp_path, State({"z": np.zeros(1, np.complex128)}, {}), Progress(1))
    assert list(tmp_path.iterdir()) == []
