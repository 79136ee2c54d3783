"""What a disk's errors are told as."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from quiltwork.core.disk import FULL, disk_errors, require_place
from quiltwork.core.errors import CapacityError, QuiltworkError


@pytest.mark.parametrize("number", sorted(FULL))
def test_a_full_disk_may_have_room_later(tmp_path, number):
    with pytest.raises(CapacityError, match="the disk is full"), disk_errors(tmp_path):
        raise OSError(number, os.strerror(number))


def test_any_other_error_names_the_file_and_why(tmp_path):
    missing = tmp_path / "a" / "b"
    with pytest.raises(QuiltworkError, match="cannot be used: No such file") as told, disk_errors(tmp_path):
        missing.open("w")
    assert told.value.where == str(missing)
    assert not isinstance(told.value, CapacityError)


def test_an_error_without_a_file_is_told_of_the_place(tmp_path):
    with pytest.raises(QuiltworkError) as told, disk_errors(tmp_path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert told.value.where == str(tmp_path)


def test_what_is_no_error_of_the_disk_passes(tmp_path):
    with pytest.raises(KeyError), disk_errors(tmp_path):
        raise KeyError("x")


def test_where_something_can_be_put_nothing_is_left_of_trying(tmp_path):
    require_place(tmp_path / "a" / "b" / "c")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["{}/file/c", "{}/file/b/c", "/proc/nobody/c", "/" + "x" * 300 + "/c"])
def test_where_nothing_can_be_put_is_told_before_it_is_tried(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(QuiltworkError, match="cannot be used: "):
        require_place(Path(place.format(tmp_path)))
