"""Letters of one machine: what goes when, over links of a given speed."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from quiltwork.serving.agents.local import Address, LocalMailbox, _Incoming, _Outgoing
from quiltwork.serving.agents.message import FRONT, Pages, Release
from quiltwork.serving.agents.ring import Ring
from quiltwork.serving.policy.cost import Link


@pytest.fixture
def line(tmp_path):
    """A way to a place over a link of a megabyte per second, and what comes out there."""
    bell = os.memfd_create("bell")
    writer = Ring(tmp_path / "r", 1 << 20)
    yield _Outgoing(writer, bell, Link(0.0, 1e6)), _Incoming(Ring(tmp_path / "r"))
    os.close(bell)


def piece(page, nbytes=100_000):
    return Pages(1, 1, 0, 32, page, torch.full((nbytes // 4,), float(page)))


def kinds(incoming):
    return [m.page if isinstance(m, Pages) else "letter" for m in incoming.letters(None)]


def test_letters_pass_between_pages_on_a_slow_link(line):
    outgoing, incoming = line
    for page in range(3):
        outgoing.put(piece(page), now=0.0)
    outgoing.flush(0, now=0.01)
    outgoing.put(Release(9), now=0.02)
    outgoing.flush(0, now=0.099)
    assert kinds(incoming) == []
    outgoing.flush(0, now=0.12)
    assert kinds(incoming) == [0, "letter"]
    assert 0.0 < outgoing.due(0.12) < 0.1
    outgoing.flush(0, now=0.5)
    assert kinds(incoming) == [1, 2]
    assert outgoing.due(0.5) is None


def test_a_link_looked_at_late_has_worked_meanwhile(line):
    outgoing, incoming = line
    for page in range(3):
        outgoing.put(piece(page), now=0.0)
    outgoing.flush(0, now=0.29)
    assert kinds(incoming) == [0, 1]


@pytest.fixture
def links():
    return {}


@pytest.fixture
def mailboxes(tmp_path, links):
    places, born = [FRONT, "a"], {FRONT: 1, "a": 1}
    for place in places:
        os.mkfifo(tmp_path / f"{Address(place)}.bell")
    Ring(tmp_path / f"{Address(FRONT)}-{Address('a')}", 5000).close()
    Ring(tmp_path / f"{Address('a')}-{Address(FRONT)}", 5000).close()
    both = [LocalMailbox(tmp_path, place, places, born, links) for place in places]
    yield both
    for mailbox in both:
        mailbox.close()


def test_letters_larger_than_the_ring_arrive_whole_and_in_order_of_their_kind(mailboxes):
    front, agent = mailboxes
    sent = [piece(page, 4 * (1 + 3001 * page)) for page in range(5)]
    for message in sent:
        front.send("a", message)
    front.send("a", Release(3))
    came = []
    while len(came) < 6:
        front.receive(0.0)
        came += agent.receive(0.01)
    pages = [message for message in came if isinstance(message, Pages)]
    assert [message.page for message in pages] == [0, 1, 2, 3, 4]
    assert all(torch.equal(a.rows, b.rows) for a, b in zip(pages, sent, strict=True))
    assert Release(3) in came


def test_whoever_waits_for_letters_can_be_woken(mailboxes):
    front, _ = mailboxes
    front.wake()
    assert front.receive(3600.0) == []


@pytest.mark.parametrize("links", [{(FRONT, "a"): Link(0.02, 1e6)}])
def test_what_is_on_its_way_arrives_while_another_thread_waits_for_letters(mailboxes):
    front, agent = mailboxes
    over = threading.Event()

    def wait():
        while not over.is_set():
            front.receive(3600.0)

    waiting = threading.Thread(target=wait)
    waiting.start()
    try:
        while not front._waits:
            pass
        front.send("a", Release(3))
        assert agent.receive(30.0) == [Release(3)]
    finally:
        over.set()
        front.wake()
        waiting.join(timeout=30)
    assert not waiting.is_alive()
