"""Token ids to text, a token at a time: which bytes each token stands for, and when they make characters."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from quiltwork.core.servable import Json

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_WORD_MARK = "▁"
UTF8_LONGEST = 4


@dataclass(frozen=True)
class ByteTable:
    """The bytes of every token, where decoding is no more than putting them together."""

    pieces: tuple[bytes, ...]
    """By token id; special tokens have none."""
    first: str = "keep"
    """What happens to space at the start of a text: ``keep``; ``strip`` one; ``drop`` all of the first token's."""

    def piece(self, token: int) -> bytes:
        """Bytes of one token; none for an id that is no token."""
        return self.pieces[token] if 0 <= token < len(self.pieces) else b""

    def joined(self, ids: Iterable[int]) -> bytes:
        """Bytes of a whole text."""
        parts = [piece for i in ids if (piece := self.piece(i))]
        if parts and self.first == "drop":
            parts[0] = parts[0].replace(b" ", b"")
        text = b"".join(parts)
        return text[1:] if self.first == "strip" and text.startswith(b" ") else text


class Detokenizer(Protocol):
    """Text of one sequence as its tokens come; the pieces joined are the whole decoded text less the prompt's."""

    def push(self, tokens: Sequence[int]) -> str:
        """The characters that are complete with these tokens."""
        ...

    def flush(self) -> str:
        """What an incomplete character at the end is shown as."""
        ...


class ByteDetokenizer:
    """By a table of bytes: constant work per token."""

    def __init__(self, table: ByteTable, prompt: Sequence[int] = ()) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at_start = not any(map(table.piece, prompt))
        if not self._at_start:
            # A prompt may end within a character; its first bytes were shown with the prompt.
            self._decoder.decode(b"".join(map(table.piece, prompt[-UTF8_LONGEST:])))

    def push(self, tokens: Sequence[int]) -> str:
        """The characters that are complete with these tokens."""
        pieces = [piece for token in tokens if (piece := self._table.piece(token))]
        if pieces and self._at_start:
            self._at_start = False
            if self._table.first == "strip" and pieces[0].startswith(b" "):
                pieces[0] = pieces[0][1:]
            elif self._table.first == "drop":
                pieces[0] = pieces[0].replace(b" ", b"")
        return self._decoder.decode(b"".join(pieces))

    def flush(self) -> str:
        """A replacement character where a character is incomplete, else nothing."""
        return self._decoder.decode(b"", final=True)


class WindowDetokenizer:
    """For any other decoder: decode the last few tokens with and without the new one, and show the difference."""

    CONTEXT = 6

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int] = ()) -> None:
        self._decode = decode
        self._ids = list(prompt[-self.CONTEXT :])
        self._shown = len(self._ids)

    def push(self, tokens: Sequence[int]) -> str:
        """The characters that are complete with these tokens."""
        self._ids.extend(tokens)
        text = self._difference()
        # A replacement character at the end may be a character that is not complete yet; not for ever.
        if not text or (text.endswith("\N{REPLACEMENT CHARACTER}") and len(self._ids) - self._shown < UTF8_LONGEST):
            return ""
        self._ids = self._ids[-self.CONTEXT :]
        self._shown = len(self._ids)
        return text

    def flush(self) -> str:
        """The text that was waiting."""
        text = self._difference()
        self._shown = len(self._ids)
        return text

    def _difference(self) -> str:
        before, after = self._decode(self._ids[: self._shown]), self._decode(self._ids)
        # Not a plain prefix where the last character was incomplete before.
        pairs = enumerate(zip(before, after, strict=False))
        return after[next((at for at, (old, new) in pairs if old != new), min(len(before), len(after))) :]


def byte_table(
    tokenizer: Mapping[str, Json], tokens: Sequence[str | None], special: frozenset[int]
) -> ByteTable | None:
    """The table for a tokenizer.json, or None where its decoder does more than put bytes together.

    Parameters
    ----------
    tokenizer : the parsed tokenizer.json.
    tokens : token strings by id; None where an id has no token.
    special : ids that are no text.
    """
    decoder = tokenizer.get("decoder")
    steps = _steps(decoder) if isinstance(decoder, Mapping) else []
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        known = _byte_characters()

        def level(token: str) -> bytes:
            # A token with any character outside the alphabet is taken as it is written.
            values = [known.get(character) for character in token]
            return token.encode() if None in values else bytes(v for v in values if v is not None)

        return ByteTable(_pieces(tokens, special, level))
    fallback = "ByteFallback" in kinds
    first = "keep"
    for at, step in enumerate(steps):
        kind = step["type"]
        if kind == "Replace":
            if step.get("pattern") != {"String": _WORD_MARK} or step.get("content") != " ":
                return None
        elif kind == "Strip":
            if "Fuse" not in kinds[:at] or step.get("content") != " " or step.get("stop") or step.get("start") != 1:
                return None
            first = "strip"
        elif kind == "Metaspace":
            if len(steps) > 1 or step.get("replacement") != _WORD_MARK:
                return None
            scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
            first = "keep" if scheme == "never" else "drop"
        elif kind not in ("ByteFallback", "Fuse"):
            return None
    if "Replace" not in kinds and "Metaspace" not in kinds:
        return None

    def spaced(token: str) -> bytes:
        byte = _BYTE_TOKEN.fullmatch(token) if fallback else None
        return bytes([int(byte[1], 16)]) if byte else token.replace(_WORD_MARK, " ").encode()

    return ByteTable(_pieces(tokens, special, spaced), first)


def _pieces(
    tokens: Sequence[str | None], special: frozenset[int], to_bytes: Callable[[str], bytes]
) -> tuple[bytes, ...]:
    return tuple(b"" if token is None or id in special else to_bytes(token) for id, token in enumerate(tokens))


def _steps(decoder: Mapping[str, Json]) -> list[Mapping[str, Json]]:
    if decoder.get("type") != "Sequence":
        return [decoder]
    return [step for inner in decoder.get("decoders", []) for step in _steps(inner)]


def _byte_characters() -> dict[str, int]:
    """The byte of each character of the byte-level alphabet (GPT-2): printable bytes stand for themselves."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + at): byte for at, byte in enumerate(rest)}
