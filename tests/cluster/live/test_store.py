"""What a store holds after whatever happens to it: whole transactions, and nothing else."""

from __future__ import annotations

import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.cluster.live.store import Store
from quiltwork.cluster.live.store_tables import JobRow, WorkerRow
from quiltwork.cluster.log import Action, Row, digest
from quiltwork.cluster.server import Pool, Server, Whitelists
from quiltwork.core.errors import (
    BadInputError,
    CapacityError,
    ConflictError,
    CorruptionError,
    QuiltworkError,
    UnsupportedError,
)

LISTS = Whitelists(frozenset({"t0"}), frozenset({"i0", "i1"}))
ROW = Row(1.5, Action.START, "a", ((0, 2), (3, -1)), 0, 2, (2, 0), "gang", 0.25, math.inf)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
wholes = st.integers(-(2**63), 2**63 - 1)
figures = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False))
rows = st.builds(
    Row,
    figures,
    st.sampled_from(Action),
    texts,
    st.lists(st.tuples(wholes, wholes), max_size=3).map(tuple),
    wholes,
    wholes,
    st.tuples(wholes, wholes),
    texts,
    figures,
    figures,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store.db"


@pytest.fixture
def store(path):
    opened = Store(path)
    yield opened
    opened.close()


def write(store, *rows):
    with store.transaction() as change:
        change.append(rows)


def test_what_is_put_is_there_after_it_is_opened_again(path):
    server, job = Server("t0", "V100", 8, Pool.TRAIN), JobRow("a", "name: a", "running", 1.5, started=2, retries=1)
    worker = WorkerRow("a-0", "a", "t0", (1, 3), "running", 42, 3.25)
    store = Store(path)
    with store.transaction() as change:
        change.put_server(server)
        change.put_job(job)
        change.put_worker(worker)
        change.append([ROW])
        change.set_whitelists(LISTS)
        assert change.put_answer("r1", "a")
    store.close()
    again = Store(path)
    assert (again.servers(), again.jobs(), again.job("a"), again.job("b")) == ([server], [job], job, None)
    assert (again.workers(), again.workers("a"), again.workers("b")) == ([worker], [worker], [])
    assert (again.log(), again.whitelists(), again.answer("r1"), again.answer("r2")) == ([ROW], LISTS, "a", None)
    again.close()


def test_jobs_keep_their_order_when_they_change(store):
    with store.transaction() as change:
        for id in "cab":
            change.put_job(JobRow(id, "", "queued", 0.0))
    with store.transaction() as change:
        change.put_job(JobRow("a", "", "done", 0.0, ended=9.0, exit=0))
    assert [(job.id, job.state) for job in store.jobs()] == [("c", "queued"), ("a", "done"), ("b", "queued")]


def test_a_dropped_server_is_gone(store):
    with store.transaction() as change:
        change.put_server(Server("t0", "V100", 8, Pool.TRAIN))
    with store.transaction() as change:
        change.drop_server("t0")
    assert store.servers() == []


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, max_size=8))
def test_a_log_read_back_is_the_log_that_was_written(written):
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store.db")
        write(store, *written)
        found = store.log()
        assert found == written
        assert digest(found) == digest(written)
        assert store.log(after=2) == written[2:]
        store.close()


def test_a_row_with_what_cannot_be_written_is_refused_and_the_whole_transaction_with_it(store):
    for row in (ROW._replace(cost=math.nan), ROW._replace(before=2**63), ROW._replace(job="\ud800")):
        with pytest.raises(BadInputError, match="log: start"):
            write(store, ROW, row)
    assert store.log() == []


def test_an_exception_in_a_transaction_leaves_the_store_as_it_was(store):
    write(store, ROW)

    def fail():
        with store.transaction() as change:
            change.append([ROW, ROW])
            change.put_job(JobRow("a", "", "queued", 0.0))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (store.log(), store.jobs()) == ([ROW], [])


def test_a_request_is_answered_once(store):
    with store.transaction() as change:
        assert change.put_answer("r", "first")
        assert not change.put_answer("r", "second")
    assert store.answer("r") == "first"


SERVERS = st.sets(st.sampled_from(["t0", "i0", "i1", "x"]))
MOVES = st.lists(st.tuples(st.booleans(), SERVERS, st.integers(0, 3), st.sampled_from("abcd")), max_size=8)


def outcome(move):
    """What a move led to: the lists, or why not."""
    try:
        return move()
    except ConflictError as error:
        return str(error)


@settings(max_examples=60, deadline=None)
@given(MOVES)
def test_whitelists_in_the_store_mean_what_whitelists_mean(moves):
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store.db")
        with store.transaction() as change:
            change.set_whitelists(LISTS)
        lists = LISTS
        for lend, ids, epoch, request in moves:
            name = "lend" if lend else "give_back"

            def stored(name=name, ids=ids, epoch=epoch, request=request):
                with store.transaction() as change:
                    return getattr(change, name)(ids, epoch=epoch, request=request)

            expected = outcome(lambda: getattr(lists, name)(ids, epoch=epoch, request=request))  # noqa: B023
            assert outcome(stored) == expected
            lists = lists if isinstance(expected, str) else expected
            assert store.whitelists() == lists
        store.close()


def test_whitelists_are_set_once_and_there_before_they_are_moved(store):
    with pytest.raises(ConflictError, match="no whitelists"), store.transaction() as change:
        change.lend(["i0"], epoch=0, request="a")
    with store.transaction() as change:
        change.set_whitelists(LISTS)
    with pytest.raises(ConflictError, match="already"), store.transaction() as change:
        change.set_whitelists(LISTS)


def test_two_controllers_do_not_have_one_store(store):
    with pytest.raises(ConflictError, match="another controller"):
        Store(store.path)
    store.close()
    Store(store.path).close()


def test_a_closed_store_says_so(store):
    store.close()
    with pytest.raises(ConflictError, match="is closed"):
        store.log()


def image(path):
    """Bytes of a store's files, but not of its lock, nor of what readers share while they read."""
    files = [file for file in path.parent.iterdir() if not file.name.endswith((".lock", "-shm"))]
    return {file.name: file.read_bytes() for file in files}


def test_a_store_of_another_version_is_refused_and_left_as_it_was(path):
    Store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 9")
    connection.close()
    before = image(path)
    with pytest.raises(UnsupportedError, match=r"store\.db: written with schema 9, this program knows 1"):
        Store(path)
    assert image(path) == before


@pytest.mark.parametrize("kind", ["text", "empty", "sqlite", "truncated"])
def test_a_file_that_is_no_whole_store_is_refused_and_left_as_it_was(path, kind):
    if kind == "text":
        path.write_text("a text of some length\n" * 100)
    elif kind == "empty":
        path.touch()
    elif kind == "sqlite":
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE jobs (id)")
        connection.close()
    else:
        store = Store(path)
        write(store, *[ROW] * 2000)
        store.close()
        os.truncate(path, path.stat().st_size * 2 // 3)
    before = image(path)
    with pytest.raises(CorruptionError, match=r"store\.db"):
        Store(path)
    assert image(path) == before


def test_a_folder_that_is_not_there_is_told_in_one_line(tmp_path):
    with pytest.raises(QuiltworkError, match="cannot be used: No such file"):
        Store(tmp_path / "nowhere" / "store.db")


def run(code, *args, **options):
    """Python code in a process of its own, with ``Store`` and this module's row."""
    setup = "import os, resource, signal, sys\nfrom quiltwork.cluster.live.store import Store\n"
    setup += "from quiltwork.cluster.log import Action, Row\nROW = Row(1.5, Action.START, 'a')\n"
    command = [sys.executable, "-c", setup + code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, **options)


def test_a_store_that_may_only_be_read_is_refused_in_one_line():
    code = """
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
try:
    Store(sys.argv[1])
except Exception as error:
    print(type(error).__name__, error)
"""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.db"
        store = Store(path)
        write(store, ROW)
        store.close()
        Path(f"{path}.lock").chmod(0o666)
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        told = run(code, path)
        Path(folder).chmod(0o755)
        assert told.stdout.startswith(f"QuiltworkError {path}: cannot be written"), (told.stdout, told.stderr)
        path.chmod(0o644)
        store = Store(path)
        assert store.log() == [ROW]
        store.close()


def test_when_no_file_may_grow_an_append_fails_in_one_line_and_leaves_the_store_as_it_was(path):
    code = """
store = Store(sys.argv[1])
with store.transaction() as change:
    change.append([ROW] * 10)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = os.path.getsize(sys.argv[1] + "-wal")
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 8192, resource.RLIM_INFINITY))
try:
    with store.transaction() as change:
        change.append([ROW] * 100_000)
except Exception as error:
    print(type(error).__name__, error)
print(len(store.log()))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
with store.transaction() as change:
    change.append([ROW] * 7)
print(len(store.log()))
"""
    told = run(code, path)
    first, *counts = told.stdout.splitlines()
    assert first.startswith(f"CapacityError {path}: the disk is full"), (told.stdout, told.stderr)
    assert counts == ["10", "17"]
    store = Store(path)
    assert len(store.log()) == 17
    store.close()


def test_a_full_file_refuses_what_does_not_fit_and_takes_what_does(store):
    write(store, ROW)
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(CapacityError, match="the disk is full"):
        write(store, *[ROW] * 10_000)
    assert store.log() == [ROW]
    write(store, ROW)
    assert len(store.log()) == 2


# One transaction of the tests below: how many rows it appends.
transactions = st.lists(st.integers(1, 20), min_size=1, max_size=8)


def carry_out(store, sizes, done=lambda i: None):
    """Number ``i`` appends so many rows that say ``i``, and sets job and answer to ``i``."""
    for i, size in enumerate(sizes):
        with store.transaction() as change:
            change.put_job(JobRow("a", "x" * 100 * i, "running", float(i)))
            change.append([ROW._replace(before=i)] * size)
            change.put_answer(f"r{i}", str(i))
        done(i)


def transactions_in(store, sizes):
    """How many whole transactions a store holds; fails where it holds a part of one."""
    log, job = store.log(), store.job("a")
    count = 0 if job is None else int(job.submitted) + 1
    assert [row.before for row in log] == [i for i in range(count) for _ in range(sizes[i])]
    assert [store.answer(f"r{i}") for i in range(len(sizes))] == [
        str(i) if i < count else None for i in range(len(sizes))
    ]
    return count


@settings(max_examples=40, deadline=None)
@given(transactions, st.integers(0, 120), st.booleans())
def test_killed_between_any_two_statements_it_holds_what_was_committed(sizes, statements, twice):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.db"
        committed = Path(folder) / "committed"
        Store(path).close()
        child = os.fork()
        if child == 0:
            _until_killed(path, sizes, statements, committed)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) in (-signal.SIGKILL, 0)
        waited_for = len(committed.read_bytes()) if committed.exists() else 0
        store = Store(path)
        assert transactions_in(store, sizes) == waited_for
        if twice:  # and it goes on from there
            write(store, ROW)
            assert len(store.log()) == sum(sizes[:waited_for]) + 1
        store.close()


def _until_killed(path, sizes, statements, committed):
    left = [statements]

    def watch(statement):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        with open(committed, "ab", buffering=0) as note:
            carry_out(Store(path, watch=watch), sizes, lambda i: note.write(b"."))
    finally:
        os._exit(0)


@settings(max_examples=40, deadline=None)
@given(transactions, st.integers(0, 120))
def test_files_taken_between_any_two_statements_hold_what_was_committed(sizes, statements):
    with tempfile.TemporaryDirectory() as folder:
        path, copy = Path(folder) / "store.db", Path(folder) / "copy" / "store.db"
        copy.parent.mkdir()
        left = [statements]
        done = [0]
        at_copy = []

        def watch(statement):
            left[0] -= 1
            if left[0] == 0:
                for suffix in ("", "-wal"):
                    shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
                at_copy.append(done[0])

        store = Store(path, watch=watch)
        carry_out(store, sizes, lambda i: done.__setitem__(0, i + 1))
        store.close()
        if not at_copy:
            return
        opened = Store(copy)
        assert transactions_in(opened, sizes) == at_copy[0]
        opened.close()


@settings(max_examples=40, deadline=None)
@given(transactions, st.floats(0, 1))
def test_a_written_ahead_part_cut_at_any_byte_leaves_the_first_whole_transactions(sizes, kept):
    """As a machine leaves them whose power fails on a disk that lied: the last part is missing, from some byte on."""
    with tempfile.TemporaryDirectory() as folder:
        path, copy = Path(folder) / "store.db", Path(folder) / "copy" / "store.db"
        copy.parent.mkdir()
        store = Store(path)
        carry_out(store, sizes)
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
        store.close()
        wal = Path(f"{copy}-wal")
        os.truncate(wal, int(wal.stat().st_size * kept))
        opened = Store(copy)
        count = transactions_in(opened, sizes)
        assert count == len(sizes) or kept < 1
        opened.close()


def test_a_store_that_was_being_made_when_all_failed_is_made_anew(path):
    aside = Path(f"{path}.new")
    aside.write_bytes(b"half of a store")
    Path(f"{aside}-wal").write_bytes(b"and its rest")
    store = Store(path)
    write(store, ROW)
    assert store.log() == [ROW]
    store.close()
    assert sorted(file.name for file in path.parent.iterdir()) == ["store.db", "store.db.lock"]
