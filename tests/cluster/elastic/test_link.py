"""The server that workers report to: who may speak, who is taken for lost, and what is passed on."""

from __future__ import annotations

import queue
import socket

import pytest

from quiltwork.cluster.elastic import Failed, Left, Link, Lost, Ready, Step
from quiltwork.cluster.elastic import message as m
from quiltwork.cluster.elastic.lines import to_line, to_worker
from quiltwork.core.errors import CapacityError

PATIENCE_S = 20.0


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Voice:
    """A worker that says what it is told to say."""

    def __init__(self, link, worker="w0", job="job", token=None):
        host, _, port = link.address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        self.lines = self.socket.makefile("rb")
        self.say(m.Hello(job, worker, token or link.token, 17, "127.0.0.1"))

    def say(self, *messages):
        self.socket.sendall(b"".join(map(to_line, messages)))

    def hear(self):
        line = self.lines.readline()
        return to_worker(line) if line else None

    def close(self):
        self.lines.close()
        self.socket.close()


READY = m.Ready(17, "127.0.0.1", True, "127.0.0.1:9", "x")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def link(clock):
    with Link(clock=clock, silence_s=40.0) as link:
        link.job("job")
        yield link


def reported(link):
    return link.reports.get(timeout=PATIENCE_S)


def test_a_worker_is_welcomed_heard_and_told_what_to_do(link, clock):
    clock.now = 5.0
    link.job("job").want(["w0"])
    voice = Voice(link)
    assert voice.hear() == m.Welcome(10.0)
    voice.say(READY)
    assert reported(link) == m.Report("job", "w0", 5.0, Ready(17, "127.0.0.1", True, "127.0.0.1:9", "x"))
    prepare = voice.hear()
    assert (type(prepare), prepare.plan.members) == (m.Prepare, ("w0",))
    voice.say(m.Prepared(1))
    assert voice.hear() == m.Enter(1)
    voice.say(m.Resized(1, 0, 0.5), m.Step(1, 1, 9, False, 0.1, {"loss": 2.0}))
    kinds = [type(reported(link).what).__name__ for _ in range(4)]
    assert kinds == ["Prepared", "Resized", "Regrouped", "Step"]
    assert link.job("job").members == ("w0",)
    link.job("job").warn()
    assert voice.hear() == m.Warn()
    voice.close()


@pytest.mark.parametrize("other", [{"token": "guess"}, {"token": "größer"}, {"job": "other"}])
def test_strangers_are_refused(link, other):
    voice = Voice(link, **other)
    assert type(voice.hear()) is m.Refused
    assert voice.hear() is None
    assert link.job("job").silence() == {}
    voice.close()


def test_what_is_no_hello_is_refused(link):
    host, _, port = link.address.rpartition(":")
    for line in (b"GET / HTTP/1.1\r\n", to_line(m.Left()), b"\xff\n"):
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as sock, sock.makefile("rb") as lines:
            sock.sendall(line)
            assert type(to_worker(lines.readline())) is m.Refused
            assert lines.readline() == b""


def test_one_that_speaks_nonsense_is_cut_off_and_lost(link):
    voice = Voice(link)
    voice.hear()
    voice.socket.sendall(b'{"kind": "Step"}\n')
    lost = reported(link)
    assert (lost.worker, type(lost.what)) == ("w0", Lost)
    assert "Step" in lost.what.what
    voice.close()


def test_one_whose_connection_ends_is_lost_unless_it_has_said_so(link):
    gone, left, failed = (Voice(link, name) for name in ("gone", "left", "failed"))
    for voice in (gone, left, failed):
        voice.hear()
    left.say(m.Left())
    assert reported(link).what == Left()
    failed.say(m.Failed("no memory"))
    assert reported(link).what == Failed("no memory")
    for voice in (left, failed, gone):
        voice.close()
    lost = reported(link)
    assert (lost.worker, lost.what) == ("gone", Lost("its connection ended"))
    with pytest.raises(queue.Empty):
        link.reports.get_nowait()


def test_one_that_is_silent_for_too_long_is_lost(link, clock):
    speaks, silent = Voice(link, "speaks"), Voice(link, "silent")
    for voice in (speaks, silent):
        voice.hear()
        voice.say(READY)
        reported(link)
    clock.now = 30.0
    speaks.say(m.Heartbeat(0, 1.0))
    assert type(reported(link).what) is m.Heartbeat
    clock.now = 41.0
    link.sweep()
    lost = reported(link)
    assert (lost.worker, lost.what) == ("silent", Lost("was not heard of for 40 seconds"))
    assert silent.hear() is None
    assert link.job("job").silence() == {"speaks": 11.0}
    for voice in (speaks, silent):
        voice.close()


def test_one_that_connects_again_takes_the_place_of_its_own_old_connection(link):
    first = Voice(link)
    first.hear()
    second = Voice(link)
    assert type(second.hear()) is m.Welcome
    second.say(READY, m.Step(1, 1, None, False, 0.1))
    assert type(reported(link).what) is Ready
    assert type(reported(link).what) is Step
    assert first.hear() is None
    for voice in (first, second):
        voice.close()


def test_who_computes_for_a_link_that_is_gone_is_missed_if_it_does_not_come_back(link, clock):
    job = link.job("job")
    voice = Voice(link, "a")
    voice.hear()
    voice.say(READY, m.Computing(m.Plan(3, ("a", "b"), "a"), 8), m.Heartbeat(8, 0.0))
    assert [type(reported(link).what) for _ in range(2)] == [Ready, m.Heartbeat]
    job.want(["a", "b"])
    link.sweep()
    clock.now = 39.0
    voice.say(m.Heartbeat(8, 0.0))
    reported(link)
    link.sweep()
    assert job.members == ("a", "b")
    clock.now = 41.0
    link.sweep()
    lost = reported(link)
    assert (lost.worker, lost.what) == ("b", Lost("did not come back within 40 seconds"))
    assert voice.hear() == m.Abandon(3)
    voice.close()


def test_a_job_that_is_forgotten_is_cut_off(link):
    voice = Voice(link)
    voice.hear()
    link.forget("job")
    assert voice.hear() is None
    again = Voice(link)
    assert type(again.hear()) is m.Refused
    for one in (voice, again):
        one.close()


def test_a_port_that_is_taken_is_said(link, clock):
    with pytest.raises(CapacityError, match="cannot listen"):
        Link(port=int(link.address.rpartition(":")[2]), clock=clock)
