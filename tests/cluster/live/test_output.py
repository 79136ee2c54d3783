import errno
import os

import pytest

from quiltwork.cluster.live.output import Log


@pytest.fixture
def told():
    return []


def test_lines_are_whole_and_the_last_are_kept(tmp_path, told):
    log = Log(str(tmp_path / "logs" / "w.log"), 8192, told.append)
    text = b"".join(b"line %d\n" % i for i in range(5000))
    for i in range(0, len(text), 777):
        log.write(text[i : i + 777])
    log.close()
    now, before = (tmp_path / "logs" / "w.log").read_bytes(), (tmp_path / "logs" / "w.log.1").read_bytes()
    kept = b"".join(line for line in (before + now).splitlines(True) if not line.startswith(b"quiltwork"))
    assert text.endswith(kept)
    assert len(kept) > 4096
    assert len(before) <= 4096
    assert len(now) <= 4096
    assert told == []


def test_a_line_longer_than_a_file_may_be_is_cut_not_lost(tmp_path, told):
    log = Log(str(tmp_path / "w.log"), 8192, told.append)
    log.write(b"x" * 7000)
    log.close()
    assert (tmp_path / "w.log.1").read_bytes() == b"x" * 4096
    assert (tmp_path / "w.log").read_bytes().partition(b"\n")[2] == b"x" * (7000 - 4096)


def test_a_log_goes_on_where_it_is_opened_again(tmp_path, told):
    for word in (b"one\n", b"two\n"):
        log = Log(str(tmp_path / "w.log"), 8192, told.append)
        log.write(word)
        log.close()
    assert (tmp_path / "w.log").read_bytes() == b"one\ntwo\n"


def test_what_a_full_disk_does_not_take_is_counted_and_said_when_it_takes_more(tmp_path, told, monkeypatch):
    log = Log(str(tmp_path / "w.log"), 1 << 20, told.append)
    log.write(b"before\n")
    real, room = os.write, [3]

    def write(file, data):
        if room[0] is None:
            return real(file, data)
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = real(file, data[: room[0]])
        room[0] -= count
        return count

    monkeypatch.setattr(os, "write", write)
    log.write(b"abcdef")
    log.write(b"ghi")
    room[0] = None
    log.write(b"after\n")
    log.close()
    note = b"\nquiltwork: 6 bytes of output could not be written and are lost\n"
    assert (tmp_path / "w.log").read_bytes() == b"before\nabc" + note + b"after\n"
    path = tmp_path / "w.log"
    assert told == [
        f"{path}: output cannot be written and is lost: No space left on device",
        f"{path}: output is written again",
    ]


def test_a_log_in_a_folder_that_is_a_file_is_told(tmp_path, told):
    (tmp_path / "file").touch()
    log = Log(str(tmp_path / "file" / "w.log"), 8192, told.append)
    log.write(b"text")
    log.close()
    assert len(told) == 1
    assert log.lost == 4
