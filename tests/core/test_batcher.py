from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.core.batcher import Batcher, BatchLimits, choose_batch
from quiltwork.core.errors import BadInputError, CapacityError, QuiltworkError
from quiltwork.core.servable import Part

FOREVER = 1e6


class Gate:
    """A batch function that says what it was given and holds every batch until it is let through."""

    def __init__(self, answer=lambda item: Part({"item": item})):
        self.batches, self.begun, self.open, self.answer = [], threading.Semaphore(0), threading.Event(), answer

    def __call__(self, items):
        self.batches.append(list(items))
        self.begun.release()
        assert self.open.wait(20)
        return [self.answer(item) for item in items]


@pytest.fixture
def batcher():
    """Make batchers that are closed at the end."""
    made = []

    def make(run, *, max_batch=4, max_wait=0.0, max_queue=100, **settings):
        made.append(Batcher(run, BatchLimits(max_batch, max_wait, max_queue), **settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


def answer_of(stream):
    (only,) = stream
    assert only.last
    return only.fields["item"]


def test_each_item_gets_its_own_answer(batcher):
    one = batcher(lambda items: [Part({"item": item * 2}) for item in items])
    streams = [one.submit(n) for n in range(20)]
    assert [answer_of(stream) for stream in streams] == [2 * n for n in range(20)]


def test_a_full_batch_does_not_wait(batcher):
    gate = Gate()
    gate.open.set()
    one = batcher(gate, max_batch=3, max_wait=FOREVER)
    streams = [one.submit(n) for n in range(3)]
    assert [answer_of(stream) for stream in streams] == [0, 1, 2]
    assert gate.batches == [[0, 1, 2]]


def test_what_comes_while_a_batch_runs_goes_together_with_the_next(batcher):
    gate = Gate()
    one = batcher(gate, max_batch=8)
    streams = [one.submit(0)]
    assert gate.begun.acquire(timeout=20)
    streams += [one.submit(n) for n in (1, 2, 3)]
    gate.open.set()
    assert [answer_of(stream) for stream in streams] == [0, 1, 2, 3]
    assert gate.batches == [[0], [1, 2, 3]]


def test_only_what_is_alike_runs_together(batcher):
    gate = Gate()
    one = batcher(gate, max_batch=8, alike=lambda item: item % 2)
    streams = [one.submit(9)]
    assert gate.begun.acquire(timeout=20)
    streams += [one.submit(n) for n in (1, 2, 3, 4)]
    gate.open.set()
    assert [answer_of(stream) for stream in streams] == [9, 1, 2, 3, 4]
    assert gate.batches == [[9], [1, 3], [2, 4]]


def test_a_cancelled_item_never_runs(batcher):
    gate = Gate()
    one = batcher(gate)
    first = one.submit("first")
    assert gate.begun.acquire(timeout=20)
    doomed, kept = one.submit("doomed"), one.submit("kept")
    doomed.cancel()
    assert one.waiting == 1
    gate.open.set()
    assert [answer_of(first), answer_of(kept), list(doomed)] == ["first", "kept", []]
    assert gate.batches == [["first"], ["kept"]]


def test_cancelling_what_runs_drops_its_answer_and_no_other(batcher):
    gate = Gate()
    one = batcher(gate, max_batch=2, max_wait=FOREVER)
    doomed, kept = one.submit("doomed"), one.submit("kept")
    assert gate.begun.acquire(timeout=20)
    doomed.cancel()
    gate.open.set()
    assert [list(doomed), answer_of(kept)] == [[], "kept"]


def test_a_full_queue_refuses_and_changes_nothing(batcher):
    gate = Gate()
    one = batcher(gate, max_batch=1, max_queue=2)
    streams = [one.submit(0)]
    assert gate.begun.acquire(timeout=20)
    streams += [one.submit(1), one.submit(2)]
    with pytest.raises(CapacityError, match="2 requests are waiting"):
        one.submit(3)
    streams[1].cancel()
    streams[1] = one.submit(4)
    gate.open.set()
    assert [answer_of(stream) for stream in streams] == [0, 4, 2]


def test_an_error_of_one_item_is_that_items_alone(batcher):
    def run(items):
        return [BadInputError("is odd", where=str(n)) if n % 2 else Part({"item": n}) for n in items]

    one = batcher(run, max_batch=3, max_wait=FOREVER)
    streams = [one.submit(n) for n in range(3)]
    assert [answer_of(streams[0]), answer_of(streams[2])] == [0, 2]
    with pytest.raises(BadInputError, match="1: is odd"):
        list(streams[1])


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda items: items[:1], "1 answers to 2 items"),
        (lambda items: [None, None], "no parts"),
        (lambda items: None, "TypeError"),
        (lambda items: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_broken_batch_fails_all_its_items_and_the_next_batch_runs(batcher, run, message):
    broken = [True]

    def sometimes(items):
        return run(items) if broken[0] else [Part({"item": item}) for item in items]

    one = batcher(sometimes, max_batch=2, max_wait=FOREVER)
    for stream in [one.submit(0), one.submit(1)]:
        with pytest.raises(QuiltworkError, match=message):
            list(stream)
    broken[0] = False
    assert [answer_of(stream) for stream in [one.submit(2), one.submit(3)]] == [2, 3]


def test_closing_with_time_to_drain_answers_what_waits(batcher):
    one = batcher(lambda items: [Part({"item": item}) for item in items], max_batch=100, max_wait=FOREVER)
    streams = [one.submit(n) for n in range(3)]
    one.close(drain_seconds=20)
    assert [answer_of(stream) for stream in streams] == [0, 1, 2]
    with pytest.raises(CapacityError, match="closing"):
        one.submit(4)
    one.close()


def test_closing_at_once_fails_what_waits_and_what_runs(batcher):
    gate = Gate()
    one = batcher(gate)
    running = one.submit("running")
    assert gate.begun.acquire(timeout=20)
    waiting = one.submit("waiting")
    one.close()
    for stream in (running, waiting):
        with pytest.raises(CapacityError, match="stopped"):
            list(stream)
    gate.open.set()
    one.close(drain_seconds=20)
    assert gate.batches == [["running"]]


def test_an_item_goes_when_it_has_waited_long_enough(batcher):
    now = [0.0]
    one = batcher(lambda items: [Part({"item": item}) for item in items], max_wait=FOREVER, clock=lambda: now[0])
    early = one.submit("early")
    now[0] = FOREVER
    late = one.submit("late")
    assert [answer_of(early), answer_of(late)] == ["early", "late"]


@pytest.mark.parametrize(
    "limits", [(0, 1, 1), (1, -1, 1), (1, float("nan"), 1), (1, float("inf"), 1), (1, 1, 0)], ids=str
)
def test_nonsense_limits_are_refused(limits):
    with pytest.raises(BadInputError, match="max_"):
        BatchLimits(*limits)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0, 10)), max_size=30).map(lambda q: sorted(q, key=lambda x: x[1])),
    st.floats(10, 20),
    st.integers(1, 5),
    st.floats(0, 15),
)
def test_a_batch_is_alike_in_order_and_due_and_waiting_is_never_too_long(queue, now, max_batch, max_wait):
    limits = BatchLimits(max_batch, max_wait, 100)
    places, seconds = choose_batch(queue, now, limits)
    if places:
        keys = {queue[place][0] for place in places}
        alike = [place for place, (key, _) in enumerate(queue) if key in keys]
        assert len(keys) == 1
        assert places == alike[:max_batch]
        assert len(places) == max_batch or now - queue[places[0]][1] >= max_wait - 1e-9
    elif queue:
        assert seconds > 0
        assert choose_batch(queue, now + seconds + 1e-9, limits)[0]
    else:
        assert seconds is None
