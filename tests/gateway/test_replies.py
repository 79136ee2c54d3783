"""How parts become a reply: one reading for a whole one, an event for each of a streamed one, an end for both."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from fake_servable import FakeServable

from quiltwork.core.errors import QuiltworkError
from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Part, Stream
from quiltwork.gateway import create_app
from quiltwork.gateway.replies import merged


def word(text, index=0, reason=None):
    fields = {"index": index, "text": text, "token_ids": [1], "logprobs": None, "finish_reason": reason}
    return Part({**fields, "stop_reason": None})


END = Part({"usage": {"prompt_tokens": 1, "completion_tokens": 2, "cached_tokens": 0}, "served": {}}, last=True)


class Quiet(FakeServable):
    """Says nothing by itself: a test puts the parts."""

    def __init__(self):
        super().__init__(ModelRef("law"))
        self.streams = []

    def submit(self, model, input, options, *, caller):
        stream = Stream(on_cancel=self.cancelled.set)
        self.streams.append(stream)
        return stream


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


def asking(servable):
    transport = httpx.ASGITransport(create_app({"language": servable}))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=20)


BODIES = {
    "/v1/completions": {"prompt": "a"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]},
    "/tokenize": {"prompt": "a"},
    "/v1/pose": {"image": "AAAA"},
}


@pytest.mark.parametrize("path", list(BODIES))
def test_a_whole_reply_is_read_by_a_patient_reader(path):
    async def scene():
        servable = Quiet()
        async with asking(servable) as client:
            reply = asyncio.create_task(client.post(path, json={"model": "law", **BODIES[path]}))
            await until(lambda: servable.streams and servable.streams[0].patient)
            servable.streams[0].put(word("A "))
            servable.streams[0].put(word("B", reason="length"))
            servable.streams[0].put(END)
            return (await reply).json()

    shown = asyncio.run(scene())
    if path == "/v1/completions":
        assert shown["choices"][0]["text"] == "A B"
    elif path == "/v1/chat/completions":
        assert shown["choices"][0]["message"]["content"] == "A B"
    else:
        assert "usage" in shown


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_one_long_part_gives_the_same_reply_as_many_short_ones(path):
    async def scene(*parts):
        servable = Quiet()
        async with asking(servable) as client:
            reply = asyncio.create_task(client.post(path, json={"model": "law", "n": 2, **BODIES[path]}))
            await until(lambda: servable.streams)
            for part in parts:
                servable.streams[0].put(part)
            shown = (await reply).json()
            return {name: value for name, value in shown.items() if name not in ("id", "created")}

    short = [word("A ", 0), word("C ", 1), word("B", 0, "stop"), word("D", 1, "length"), END]
    long = [word("A B", 0, "stop"), word("C D", 1, "length"), END]
    assert asyncio.run(scene(*short)) == asyncio.run(scene(*long))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_what_served_in_anothers_place_reaches_the_reader(path, stream):
    substitutions = [{"part": "layers.0.ffn", "block": "b", "instead_of": "a", "model": "base", "delta_loss": 0.004}]
    end = Part({**END.fields, "served": {"version": "v", "substitutions": substitutions}}, last=True)

    async def scene():
        servable = Quiet()
        async with asking(servable) as client:
            body = {"model": "law", "stream": stream, **BODIES[path]}
            if stream:
                body["stream_options"] = {"include_usage": True}
            reply = asyncio.create_task(client.post(path, json=body))
            await until(lambda: servable.streams)
            servable.streams[0].put(word("A", reason="stop"))
            servable.streams[0].put(end)
            return (await reply).text

    text = asyncio.run(scene())
    if stream:
        events = [json.loads(event.removeprefix("data: ")) for event in text.split("\n\n") if "substitutions" in event]
        assert len(events) == 1
        shown = events[0]
    else:
        shown = json.loads(text)
    assert shown["served"]["substitutions"] == substitutions


def test_a_streamed_reply_has_an_event_for_each_part_however_many_wait():
    async def scene():
        servable = Quiet()
        async with asking(servable) as client:
            body = {"model": "law", "prompt": "a", "stream": True}
            reply = asyncio.create_task(client.post("/v1/completions", json=body))
            await until(lambda: servable.streams)
            assert not servable.streams[0].patient
            for at in range(50):
                servable.streams[0].put(word(f"{at} ", reason="length" if at == 49 else None))
            servable.streams[0].put(END)
            return (await reply).text

    *events, done, rest = asyncio.run(scene()).split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert [chunk["choices"][0]["text"] for chunk in chunks] == [f"{at} " for at in range(50)]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {name: type(value) for name, value in chunks[0].items()} == {
        "id": str, "object": str, "created": int, "model": str, "choices": list,
    }  # fmt: skip


@pytest.mark.parametrize("text", ['"', "\\", "\n", "\r\n", "data: [DONE]\n\n", "\x00\x1f\x7f", "é€𝄞", "\u2028", "[0]"])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_any_text_comes_through_a_stream_unchanged(path, text):
    async def scene():
        servable = Quiet()
        async with asking(servable) as client:
            body = {"model": "law", **BODIES[path], "stream": True, "stream_options": {"include_usage": True}}
            reply = asyncio.create_task(client.post(path, json=body))
            await until(lambda: servable.streams)
            servable.streams[0].put(word(text))
            servable.streams[0].put(END)
            return (await reply).content.decode()

    events = [event.removeprefix("data: ") for event in asyncio.run(scene()).split("\n\n") if event]
    assert events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 2
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    said = [c["text"] if "text" in c else c["delta"].get("content", "") for c in choices]
    assert "".join(said) == text


# --- streams beside one another -------------------------------------------------------------------------------------


def gather(streams, feed, *, patient=False):
    async def scene():
        batches = []
        feeding = asyncio.create_task(feed(batches))
        try:
            async for batch in merged(streams, patient=patient):
                batches.append([(number, part.fields["text"]) for number, part in batch if "text" in part.fields])
        finally:
            await feeding
        return batches

    return asyncio.run(scene())


def test_parts_that_wait_come_together_and_later_ones_on_their_own():
    streams = [Stream(), Stream()]
    for at, stream in enumerate(streams):
        stream.put(word(f"{at}a"))
        stream.put(word(f"{at}b"))

    async def feed(batches):
        await until(lambda: batches)
        streams[1].put(word("late"))
        await until(lambda: len(batches) == 2)
        for stream in streams:
            stream.put(END)

    batches = gather(streams, feed)
    assert sorted(batches[0]) == [(0, "0a"), (0, "0b"), (1, "1a"), (1, "1b")]
    assert batches[1] == [(1, "late")]


def test_a_patient_reader_gets_nothing_before_a_stream_has_ended():
    streams = [Stream(), Stream()]

    async def feed(batches):
        await until(lambda: all(stream.patient for stream in streams))
        streams[0].put(word("a"))
        streams[1].put(word("b"))
        streams[1].put(END)
        await until(lambda: batches)
        assert batches == [[(1, "b")]]
        streams[0].put(END)

    assert gather(streams, feed, patient=True) == [[(1, "b")], [(0, "a")]]


@pytest.mark.parametrize("patient", [True, False])
def test_an_error_comes_after_the_parts_before_it_and_ends_the_others(patient):
    told = []
    streams = [Stream(), Stream(on_cancel=lambda: told.append("cancelled"))]

    async def feed(batches):
        await until(lambda: all(stream._wake for stream in streams))
        streams[0].put(word("a"))
        streams[0].fail(QuiltworkError("broken"))

    seen = []

    async def scene():
        feeding = asyncio.create_task(feed(seen))
        async for batch in merged(streams, patient=patient):
            seen.extend(part.fields["text"] for _, part in batch)
        await feeding

    with pytest.raises(QuiltworkError, match="broken"):
        asyncio.run(scene())
    assert seen == ([] if patient else ["a"])
    assert told == ["cancelled"]


@pytest.mark.parametrize("patient", [True, False])
def test_a_reader_that_leaves_cancels_every_stream(patient):
    told = []
    streams = [Stream(on_cancel=lambda at=at: told.append(at)) for at in range(3)]

    async def scene():
        async def read():
            async for _ in merged(streams, patient=patient):
                pass

        reading = asyncio.create_task(read())
        await until(lambda: all(stream._wake for stream in streams))
        reading.cancel()
        await asyncio.wait([reading])

    asyncio.run(scene())
    assert sorted(told) == [0, 1, 2]
