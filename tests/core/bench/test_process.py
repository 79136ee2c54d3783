"""What a process tree costs, on real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from quiltwork.core.bench import peak_pss, tree_cpu_seconds, tree_pss_bytes
from quiltwork.core.errors import QuiltworkError

BURN = "import time\nwhile time.process_time() < {}: pass\n"
WAIT = "print('ready', flush=True); input()\n"


@contextmanager
def child(code: str):
    """A child that has run ``code`` and waits; it ends when the block does."""
    process = subprocess.Popen([sys.executable, "-c", code + WAIT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    try:
        yield process
    finally:
        process.communicate(b"\n")


def others() -> float:
    """What is counted beside this process's own time."""
    return tree_cpu_seconds() - time.process_time()


def test_our_own_time_counts():
    before, clock = tree_cpu_seconds(), time.process_time()
    while time.process_time() < clock + 0.1:
        pass
    assert tree_cpu_seconds() - before >= 0.1


def test_a_living_childs_time_counts_and_keeps_counting_after_its_end():
    before = others()
    with child(BURN.format(0.3)):
        living = others() - before
        assert living >= 0.29
    assert others() - before >= living - 0.03


def test_a_dead_child_that_nobody_waited_for_counts():
    before = others()
    process = subprocess.Popen([sys.executable, "-c", BURN.format(0.2)])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert others() - before >= 0.19
    process.wait()


def test_a_grandchild_counts():
    nested = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN.format(0.2)!r}])\n"
    before = others()
    with child(nested):
        assert others() - before >= 0.17


def test_threads_that_have_ended_count():
    threads = (
        "import threading, time\n"
        "def burn():\n"
        "    while time.thread_time() < 0.2: pass\n"
        "t = threading.Thread(target=burn); t.start(); t.join()\n"
    )
    before = others()
    with child(threads):
        assert others() - before >= 0.2


def test_another_tree_is_measured_by_its_root():
    with child(BURN.format(0.2)) as burner, child("") as idle:
        assert tree_cpu_seconds(burner.pid) > tree_cpu_seconds(idle.pid)
        assert tree_cpu_seconds(burner.pid) >= 0.2


def test_memory_of_children_counts_and_leaves_with_them():
    def mine() -> int:
        return tree_pss_bytes()

    before = mine()
    with child("held = bytearray(64 * 2**20)\n"):
        grown = mine() - before
        assert grown >= 64 * 2**20
    assert mine() - before < grown / 2


def test_pages_in_common_are_not_counted_twice():
    code = (
        "import os, sys\nheld = bytearray(os.urandom(64 * 2**20))\nr, w = os.pipe()\n"
        "if os.fork() == 0:\n    os.close(w); os.read(r, 1); os._exit(0)\n"
    )
    with child(code) as process:
        assert 64 * 2**20 <= tree_pss_bytes(process.pid) < 100 * 2**20


def test_a_peak_is_remembered():
    code = "held = bytearray(64 * 2**20)\nprint('grown', flush=True); input()\ndel held\n"
    process = subprocess.Popen([sys.executable, "-c", code + WAIT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"grown\n"
    with peak_pss(process.pid, every=0.001) as peak:
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"ready\n"
    assert peak.bytes >= 64 * 2**20 > tree_pss_bytes(process.pid) - 30 * 2**20
    process.communicate(b"\n")


@pytest.mark.parametrize("measure", [tree_cpu_seconds, tree_pss_bytes])
def test_a_process_that_has_gone_is_said_to_have_gone(measure):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(QuiltworkError, match="gone"):
        measure(process.pid)
