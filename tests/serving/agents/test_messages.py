from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.core.errors import CorruptionError
from quiltwork.serving.agents.message import AskKV, Hop, Lay, Output, Pages, Run, Standings, from_bytes, to_bytes
from quiltwork.serving.agents.ring import Ring

RUN = Run(7, 2, 3, 1, 16, 16, torch.arange(6.0).reshape(2, 3), 1, 1, 0, 20, ("a", None), ("ab12",), 1, 0.5,
          {"k": 1}, 4, "move", "b", 2, True, (Hop("a", (0, 1), "move", 0.1, 0.2, 5, 3, 2),), 17,
          {"experts": (3.0, 2)})  # fmt: skip


@pytest.mark.parametrize(
    "message",
    [
        RUN,
        Output(1, 1, 4, ("a",), torch.zeros(1, 5), 16),
        Output(1, 1, 4, ("a",), torch.empty(0)),
        Output(1, 1, 4, ("a",), torch.empty(0), spent={"experts": (1.5, 1)}),
        Pages(1, 1, 0, 16, 0, torch.ones(1, 2, 2, 1, 16, 4, dtype=torch.bfloat16), "x"),
        Lay(1, "m", "v", (0, 2, 5), (("a", "b"), ("c",))),
        AskKV(1, 1, (0, 2), 30, "a"),
        Standings({"a": 0.5}, {"a": 2}, ("b",), {"a": 1}),
    ],
)
def test_a_message_arrives_as_it_was_sent(message):
    back = from_bytes(to_bytes(message))
    assert type(back) is type(message)
    for name, value in vars(message).items():
        got = getattr(back, name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(got, value)
            assert got.dtype == value.dtype
        else:
            assert got == value


@given(st.binary(max_size=200))
def test_nonsense_is_refused(data):
    with pytest.raises(CorruptionError):
        from_bytes(data)


@pytest.mark.parametrize("cut", [3, 40, 120, -1])
def test_a_truncated_message_is_refused(cut):
    with pytest.raises(CorruptionError):
        from_bytes(to_bytes(RUN)[:cut])


def taken(ring, space):
    """What a ring gives into so many bytes."""
    into = bytearray(space)
    return bytes(into[: ring.read(memoryview(into))])


@settings(deadline=None, max_examples=50)
@given(letters=st.lists(st.binary(min_size=1, max_size=300), max_size=30), size=st.integers(1, 64),
       space=st.integers(1, 80))  # fmt: skip
def test_a_ring_gives_back_what_was_written_whatever_its_size(tmp_path_factory, letters, size, space):
    path = Path(tmp_path_factory.mktemp("ring")) / "r"
    writer, reader = Ring(path, size), Ring(path)
    sent = got = b""
    for letter in letters:
        left = memoryview(letter)
        sent += letter
        while left:
            written = writer.write(left)
            left = left[written:]
            if not written:
                got += taken(reader, space)
    while piece := taken(reader, space):
        got += piece
    assert got == sent
    writer.close()
    reader.close()
