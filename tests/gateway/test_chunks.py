"""Chunks that are put together from bytes are what a JSON encoder would have written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.gateway.chunks import ChunkWriter
from quiltwork.gateway.openai_replies import ChatChoice, CompletionChoice

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    ['"content":0', '"text":0', "[0]", "0", ""]
)
ENTRY = {"id": 1, "token": "a", "bytes": [97], "logprob": -0.5, "top": []}
PARTS = st.fixed_dictionaries(
    {
        "text": TEXTS,
        "logprobs": st.none() | st.just([ENTRY]),
        "finish_reason": st.none() | st.sampled_from(["stop", "length"]),
        "stop_reason": st.none() | TEXTS,
    }
)


@pytest.mark.parametrize("kind", [ChatChoice, CompletionChoice])
@given(model=TEXTS, usage=st.booleans(), parts=st.lists(st.tuples(st.integers(0, 2), PARTS), max_size=8))
def test_a_chunk_is_its_head_and_its_choice(kind, model, usage, parts):
    head = {"id": "x-0", "object": "chunk", "created": 0, "model": model, **({"usage": None} if usage else {})}
    writer = ChunkWriter(head)
    choices = [kind(index) for index in range(3)]
    deltas = [choice.opening() for choice in choices if isinstance(choice, ChatChoice)]
    deltas += [choices[index].take(part) for index, part in parts]
    for delta in deltas:
        written = writer.event(delta)
        assert written.startswith(b"data: ")
        assert written.endswith(b"\n\n")
        assert b"\n" not in written[:-2]
        assert json.loads(written[6:]) == {**head, "choices": [delta]}
