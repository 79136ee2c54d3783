"""Who is taken for lost, and who only loads."""

from __future__ import annotations

import threading

import pytest
from agent_crew import Post

from quiltwork.serving.agents.contact import SILENT_BEATS, AgentLost, Contact, Lost
from quiltwork.serving.agents.message import FRONT, Beat, Laid, Lay, from_bytes
from quiltwork.serving.agents.serve import BEAT_S

LOOKS = 200
"""As often as the front looks for a letter before a test gives up."""


class Places:
    """Agents that do nothing by themselves."""

    def __init__(self, *names):
        self.names, self.born, self.ended = names, {}, []
        self.post = Post()
        self.mailbox = self.post.mailbox(FRONT)
        self.boxes = {name: self.post.mailbox(name) for name in names}

    def dead(self):
        ended, self.ended = self.ended, []
        return ended

    def restart(self, name):
        raise AssertionError("nobody is to be restarted")

    def close(self):
        pass


@pytest.fixture
def crew():
    return Places("loads", "idles")


@pytest.fixture
def clock():
    return [0.0]


@pytest.fixture
def contact(crew, clock):
    found = Contact(crew, lambda: clock[0], reload=lambda name: None, restart=False, look=lambda: None)
    found.open()
    yield found
    found.close()


def beat(name):
    return Beat(name, *(0,) * 12, 0.0)


def hear_from_all(contact, crew):
    for name in crew.names:
        crew.mailbox.send(FRONT, beat(name))
    for _ in range(LOOKS):
        if set(contact.beats) == set(crew.names):
            return
        contact.letters()
    pytest.fail("beats did not come")


def lost(contact):
    for _ in range(LOOKS):
        found = [letter.name for letter in contact.letters() if isinstance(letter, Lost)]
        if found:
            return found
    return []


def begin_to_load(contact, crew, outcome):
    def load():
        try:
            contact.lay(Lay(1, "m", "1", (0, 1), (("loads",),)), ["loads"])
            outcome.append("loaded")
        except AgentLost:
            outcome.append("lost")

    thread = threading.Thread(target=load)
    thread.start()
    assert from_bytes(crew.boxes["loads"].box.get(timeout=30)).layout == 1
    return thread


def test_who_loads_for_long_is_not_taken_for_lost_and_is_watched_again_afterwards(contact, crew, clock):
    outcome = []
    hear_from_all(contact, crew)
    thread = begin_to_load(contact, crew, outcome)
    clock[0] += (SILENT_BEATS + 1) * BEAT_S
    assert lost(contact) == ["idles"]
    assert contact.gone == {"idles"}
    crew.mailbox.send(FRONT, Laid(1, "loads", 0))
    thread.join(timeout=30)
    assert outcome == ["loaded"]
    clock[0] += (SILENT_BEATS + 1) * BEAT_S
    assert lost(contact) == ["loads"]


def test_who_ends_while_it_loads_is_lost_at_once(contact, crew, clock):
    outcome = []
    hear_from_all(contact, crew)
    thread = begin_to_load(contact, crew, outcome)
    crew.ended.append("loads")
    assert lost(contact) == ["loads"]
    thread.join(timeout=30)
    assert outcome == ["lost"]
