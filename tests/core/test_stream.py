"""A reply on its way from the thread that computes to the one that reads."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.core.errors import CapacityError
from quiltwork.core.servable import Part, Stream, TaskSchema


def part(n: int, last: bool = False) -> Part:
    return Part({"n": n}, last=last)


def numbers(parts) -> list[int]:
    return [p.fields["n"] for p in parts]


async def gathered(stream: Stream) -> list[int]:
    return [p.fields["n"] async for p in stream]


def filled(count: int) -> Stream:
    stream = Stream()
    for n in range(count):
        stream.put(part(n, last=n == count - 1))
    return stream


@given(st.integers(1, 20), st.booleans())
def test_parts_arrive_once_and_in_order(count, in_loop):
    stream = filled(count)
    got = asyncio.run(gathered(stream)) if in_loop else numbers(stream)
    assert got == list(range(count))


@pytest.mark.parametrize("in_loop", [False, True])
def test_parts_put_by_another_thread_while_reading_all_arrive(in_loop):
    stream, count = Stream(), 500
    thread = threading.Thread(target=lambda: [stream.put(part(n, last=n == count - 1)) for n in range(count)])
    thread.start()
    got = asyncio.run(gathered(stream)) if in_loop else numbers(stream)
    thread.join()
    assert got == list(range(count))


@pytest.mark.parametrize("in_loop", [False, True])
def test_an_error_comes_after_the_parts_before_it(in_loop):
    stream = Stream()
    stream.put(part(0))
    stream.fail(CapacityError("full"))
    got = []

    async def read():
        async for p in stream:
            got.append(p.fields["n"])

    def read_in_thread():
        for p in stream:
            got.append(p.fields["n"])

    with pytest.raises(CapacityError, match="full"):
        asyncio.run(read()) if in_loop else read_in_thread()
    assert got == [0]
    assert numbers(stream) == []


def test_an_error_reaches_a_reader_that_is_already_waiting():
    stream, caught = Stream(), []

    def read():
        try:
            list(stream)
        except CapacityError as error:
            caught.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    stream.fail(CapacityError("full"))
    reader.join(10)
    assert len(caught) == 1


def test_nothing_comes_after_the_last_part():
    stream = filled(2)
    stream.put(part(7))
    stream.fail(ValueError())
    assert numbers(stream) == [0, 1]


def test_cancelling_tells_the_producer_once_and_ends_the_stream():
    told = []
    stream = Stream(lambda: told.append(1))
    stream.put(part(0))
    stream.cancel()
    stream.cancel()
    stream.put(part(1))
    assert told == [1]
    assert stream.cancelled
    assert numbers(stream) == []


def test_cancelling_after_the_end_tells_nobody():
    told = []
    stream = Stream(lambda: told.append(1))
    stream.put(part(0, last=True))
    stream.cancel()
    assert told == []
    assert not stream.cancelled
    assert numbers(stream) == [0]


def test_cancelling_wakes_a_reader_in_a_thread():
    stream = Stream()
    reader = threading.Thread(target=lambda: list(stream))
    reader.start()
    stream.cancel()
    reader.join(10)
    assert not reader.is_alive()


def test_cancelling_from_another_thread_wakes_a_reader_in_a_loop():
    stream, reading = Stream(), threading.Event()

    async def read():
        task = asyncio.ensure_future(gathered(stream))
        await asyncio.sleep(0)
        reading.set()
        return await asyncio.wait_for(task, 10)

    canceller = threading.Thread(target=lambda: (reading.wait(10), stream.cancel()))
    canceller.start()
    assert asyncio.run(read()) == []
    canceller.join()


def test_the_producer_may_cancel_from_within_its_own_callback():
    stream = Stream()
    stream._on_cancel = lambda: stream.fail(ValueError("late"))
    stream.cancel()
    assert numbers(stream) == []


def test_a_producer_that_outlives_the_readers_loop_is_not_disturbed():
    stream = Stream()

    async def first():
        async with aclosing(stream.__aiter__()) as parts:
            async for p in parts:
                return p.fields["n"]

    stream.put(part(0))
    assert asyncio.run(first()) == 0
    stream.put(part(1))
    stream.put(part(2, last=True))
    assert numbers(stream) == [1, 2]


def test_a_loop_closed_under_the_reader_does_not_disturb_the_producer():
    stream, loop = Stream(), asyncio.new_event_loop()

    async def begin():
        task = asyncio.ensure_future(gathered(stream))
        await asyncio.sleep(0)
        return task

    task = loop.run_until_complete(begin())
    loop.close()
    stream.put(part(0, last=True))
    assert not task.done()
    task._log_destroy_pending = False
    assert numbers(stream) == [0]


def test_options_that_change_state_are_those_declared_so():
    options = {"properties": {"scale": {"x-changes-state": True}, "top_k": {}, "a": {"x-changes-state": True}}}
    assert TaskSchema({}, {}, options).state_options() == ("a", "scale")
    assert TaskSchema({}, {}, {}).state_options() == ()


async def awaited(stream: Stream) -> list[int]:
    return numbers(await stream)


def at_the_end(stream: Stream, in_loop: bool) -> list[int]:
    return asyncio.run(awaited(stream)) if in_loop else numbers(stream.wait())


@pytest.mark.parametrize("in_loop", [False, True])
def test_a_patient_reader_gets_all_parts_once_the_last_has_come(in_loop):
    stream, count = Stream(), 500
    thread = threading.Thread(target=lambda: [stream.put(part(n, last=n == count - 1)) for n in range(count)])
    thread.start()
    assert at_the_end(stream, in_loop) == list(range(count))
    thread.join()
    assert at_the_end(filled(3), in_loop) == [0, 1, 2]


def test_a_patient_reader_is_woken_by_nothing_but_the_end():
    stream, woken = Stream(), []

    async def read():
        task = asyncio.ensure_future(awaited(stream))
        await asyncio.sleep(0)
        wake, stream._wake = stream._wake, lambda: (woken.append(1), wake())
        for n in range(5):
            stream.put(part(n))
        assert woken == []
        stream.put(part(5, last=True))
        return await task

    assert asyncio.run(read()) == list(range(6))
    assert woken == [1]


@pytest.mark.parametrize("in_loop", [False, True])
def test_a_patient_reader_is_told_of_an_error_and_of_cancellation(in_loop):
    failed = Stream()
    failed.put(part(0))
    failed.fail(CapacityError("full"))
    with pytest.raises(CapacityError, match="full"):
        at_the_end(failed, in_loop)
    cancelled = Stream()
    canceller = threading.Thread(target=cancelled.cancel)
    canceller.start()
    assert at_the_end(cancelled, in_loop) == []
    canceller.join()
