"""What a worker was told and has not done yet."""

from __future__ import annotations

import threading

from quiltwork.cluster.elastic import message as m
from quiltwork.cluster.elastic.inbox import Inbox


def test_what_is_told_is_done_once_and_the_most_pressing_first():
    inbox = Inbox()
    for order in (m.Enter(4), m.Conclude(), m.Abandon(3)):
        inbox.tell(order)
    assert [inbox.next(0) for _ in range(4)] == [m.Abandon(3), m.Conclude(), m.Enter(4), None]


def test_an_end_stays_the_end():
    inbox = Inbox()
    inbox.tell(m.End(save=True))
    inbox.tell(m.Enter(2))
    assert [inbox.next(0), inbox.next(0)] == [m.End(save=True)] * 2
    assert inbox.void(7)


def test_to_abandon_voids_plans_up_to_that_one_alone():
    inbox = Inbox()
    inbox.tell(m.Go(5))
    inbox.tell(m.Enter(5))
    inbox.tell(m.Abandon(4))
    assert (inbox.void(4), inbox.void(5), inbox.going()) == (True, False, 5)
    inbox.tell(m.Abandon(5))
    assert (inbox.void(5), inbox.going()) == (True, None)
    assert [inbox.next(0), inbox.next(0)] == [m.Abandon(5), None]


def test_a_change_that_others_may_not_hear_of_is_not_begun_when_the_link_is_lost():
    inbox = Inbox()
    inbox.tell(m.Go(2))
    inbox.cut_off()
    assert inbox.going() is None


def test_a_warning_is_taken_once():
    inbox = Inbox()
    assert not inbox.take_warning()
    inbox.tell(m.Warn())
    assert [inbox.take_warning(), inbox.take_warning()] == [True, False]


def test_one_that_waits_is_told_at_once():
    inbox = Inbox()
    told = []
    waiting = threading.Thread(target=lambda: told.append(inbox.next(60)))
    waiting.start()
    inbox.tell(m.Enter(1))
    waiting.join(60)
    assert told == [m.Enter(1)]
