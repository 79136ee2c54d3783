"""Tokens one after the other become pieces of text: those that make up a character only together are one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from quiltwork.moe.report.figures import Piece
from quiltwork.moe.training.tokens import Codec

_LONGEST = 4
"""Bytes of a character."""


@dataclass(frozen=True)
class Read:
    """A token, what each layer spent on it, and the loss of telling it, where that was told."""

    token: int
    experts: tuple[float | None, ...]
    loss: float | None


@dataclass
class Joiner:
    """Keeps what is not a whole character yet, so that it may go on in the next window."""

    codec: Codec
    _held: list[Read] = field(default_factory=list)
    _begun: bool = False

    def begin(self) -> Iterator[Piece]:
        """Another text begins: what is left of the one before."""
        if self._held:
            yield self._piece(self._text())
        self._begun = False

    def add(self, reads: Sequence[Read]) -> Iterator[Piece]:
        """The next tokens of a text. Begins and ends are no text."""
        for read in reads:
            if read.token in (self.codec.begin, self.codec.end):
                continue
            self._held.append(read)
            text = self._text()
            if "\ufffd" not in text or len(self._held) >= _LONGEST:
                yield self._piece(text)

    def _text(self) -> str:
        return self.codec.decode([read.token for read in self._held])

    def _piece(self, text: str) -> Piece:
        losses = [read.loss for read in self._held if read.loss is not None]
        columns = zip(*(read.experts for read in self._held), strict=True)
        taken = tuple(_mean([k for k in column if k is not None]) for column in columns)
        piece = Piece(text, taken, sum(losses) if losses else None, begins=not self._begun)
        self._held, self._begun = [], True
        return piece


def _mean(taken: Sequence[float]) -> float | None:
    return sum(taken) / len(taken) if taken else None
