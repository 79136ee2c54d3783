"""The events of a streamed reply, written as bytes: only the choice differs from one to the next, and mostly its text.

A general JSON encoder over the whole chunk costs more than the rest of the gateway does for a token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from json import JSONEncoder
from json.encoder import encode_basestring

from quiltwork.core.servable import Json

_encode: Callable[[Json], str] = JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def as_json(data: Json) -> bytes:
    """JSON without spaces, in UTF-8."""
    return _encode(data).encode()


def event(data: Json) -> bytes:
    """A server-sent event that carries JSON."""
    return b"data: " + as_json(data) + b"\n\n"


class ChunkWriter:
    """Writes the chunks of one reply.

    head : a chunk's fields but for its ``choices``: the same in all of them.
    """

    def __init__(self, head: Mapping[str, Json]) -> None:
        self._before, self._after = event({**head, "choices": [0]}).rsplit(b"0", 1)
        self._around: dict[tuple[int, bool], tuple[bytes, bytes]] = {}

    def event(self, choice: Mapping[str, Json]) -> bytes:
        """A chunk of one choice: what ``event({**head, "choices": [choice]})`` gives."""
        if choice["finish_reason"] is choice["logprobs"] is choice.get("stop_reason") is None:
            delta = choice.get("delta")
            if delta is None or (len(delta) == 1 and "content" in delta):
                text: str = choice["text"] if delta is None else delta["content"]
                before, after = self._frame(choice, chat=delta is not None)
                return before + encode_basestring(text).encode() + after
        return self._before + as_json(choice) + self._after

    def _frame(self, choice: Mapping[str, Json], *, chat: bool) -> tuple[bytes, bytes]:
        """What stands before and after the text of a choice that has nothing else to say."""
        key = (choice["index"], chat)
        found = self._around.get(key)
        if found is None:
            field = "content" if chat else "text"
            plain = {**choice, "delta": {field: 0}} if chat else {**choice, field: 0}
            mark = f'"{field}":'.encode()
            before, after = as_json(plain).split(mark + b"0", 1)
            found = self._around[key] = (self._before + before + mark, after + self._after)
        return found
