"""While an agent computes it gives pages away, and does nothing else."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from agent_crew import Post

from quiltwork.serving.agents.message import FRONT, AskKV, Pages, Release
from quiltwork.serving.agents.serve import _Desk


class Idle:
    """Stands for an agent: notes what it is to handle, and gives two pieces of pages for every request."""

    def __init__(self):
        self.handled, self.outbox, self.asked = [], deque(), deque()
        self.has_work = self.stopping = False

    def handle(self, message):
        self.handled.append(message)
        if isinstance(message, AskKV):
            self.asked.extend(("b", Pages(message.request, 1, 0, 32, page, torch.ones(2))) for page in (0, 1))

    def give(self):
        if self.asked:
            self.outbox.append(self.asked.popleft())
        return bool(self.outbox)

    def batches(self):
        return None

    def beat(self):
        return Release(0)


@pytest.fixture
def desk():
    post = Post()
    agent, mine, theirs, _ = Idle(), post.mailbox("a"), post.mailbox("b"), post.mailbox(FRONT)
    with ThreadPoolExecutor(1) as beside:
        yield agent, theirs, _Desk(agent, mine, time.monotonic, 3600.0, beside)


def test_pages_are_given_while_it_computes_and_all_else_waits_for_the_end(desk):
    agent, theirs, mine = desk
    theirs.send("a", Release(5))
    theirs.send("a", AskKV(7, 1, (0, 1), 32, "b"))
    came = []

    def job():
        for _ in range(2):  # a step that lasts until the pages are there
            came.extend(theirs.receive(10.0) if len(came) < 2 else ())
        return [type(message).__name__ for message in agent.handled]

    assert mine.run(job) == ["AskKV"]
    assert [piece.page for piece in came] == [0, 1]
    mine.letters(0.0)
    assert [type(message).__name__ for message in agent.handled] == ["AskKV", "Release"]


def test_what_goes_wrong_in_a_step_is_raised_where_it_was_asked_for(desk):
    _, _, mine = desk
    with pytest.raises(ZeroDivisionError):
        mine.run(lambda: 1 / 0)


def test_a_step_ends_as_soon_as_it_has_been_computed(desk):
    _, _, mine = desk
    started = threading.Event()
    assert mine.run(lambda: started.set() or "done") == "done"  # the next sign of life is an hour away
    assert started.is_set()
