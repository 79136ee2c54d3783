import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

from quiltwork.cluster.live.process import MARK, Process, descendants, ended_children, processes, read_stat, remains


def wait_for(what):
    until = time.monotonic() + 30
    while not what():
        assert time.monotonic() < until
        os.sched_yield()


def test_a_process_is_told_from_another_that_has_its_pid():
    me = Process.of(os.getpid())
    assert me.alive()
    assert not me._replace(started=me.started + 1).alive()
    assert not me._replace(boot="another").alive()
    assert Process.of(2**22 + 1) is None


def test_who_has_ended_and_was_not_asked_for_its_code_is_not_there():
    child = subprocess.Popen(["true"])
    wait_for(lambda: read_stat(child.pid).state == "Z")
    assert not Process(child.pid, read_stat(child.pid).started, Process.of(os.getpid()).boot).alive()
    assert child.pid in ended_children(os.getpid())
    assert child.pid not in {stat.pid for stat in processes()}
    child.wait()


def test_who_has_ended_but_for_a_thread_is_there():
    """Its first thread ends; a GPU would be in use still."""
    code = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
ctypes.CDLL(None).pthread_exit(None)
"""
    child = subprocess.Popen([sys.executable, "-c", code])
    try:
        wait_for(lambda: read_stat(child.pid).state == "Z")
        assert Process.of(child.pid).alive()
    finally:
        child.kill()
        child.wait()


def test_a_name_with_brackets_and_spaces_hides_nothing(tmp_path):
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    child = subprocess.Popen([program, "1000"])
    try:
        wait_for(lambda: b"1000" in Path(f"/proc/{child.pid}/cmdline").read_bytes())
        assert read_stat(child.pid).parent == os.getpid()
        assert child.pid in descendants(os.getpid(), processes())
    finally:
        child.kill()
        child.wait()


def test_what_is_left_is_found_by_its_mark_or_by_the_session_it_is_in():
    mark = secrets.token_hex(8)
    script = "env -i sleep 1000 & echo $!; setsid sleep 1000 & echo $!; wait"
    child = subprocess.Popen(
        ["sh", "-c", script], env={**os.environ, MARK: mark}, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    in_session, marked = int(child.stdout.readline()), int(child.stdout.readline())
    leader = Process.of(child.pid)
    try:
        wait_for(lambda: read_stat(marked).session == marked)
        assert set(remains(mark, leader).others) == {child.pid, in_session, marked}
        wait_for(lambda: set(remains(mark, None).others) == {child.pid, marked})
        child.kill()
        child.wait()
        assert set(remains(mark, leader).others) == {in_session, marked}
        # Another that has the leader's PID has nothing to do with it.
        assert set(remains(mark, leader._replace(started=leader.started + 10**9)).others) == {marked}
        assert not remains(mark + "x", None)
    finally:
        for pid in (in_session, marked):
            os.kill(pid, signal.SIGKILL)
        child.stdout.close()
