"""Sequences that wait to start: a line for each tenant."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from quiltwork.serving.sequence import Sequence


class WaitingRoom:
    """Lines of sequences, each in the order they are to start.

    line_of : whose line a sequence stands in.
    """

    def __init__(self, line_of: Callable[[Sequence], str]) -> None:
        self._line_of = line_of
        self._lines: dict[str, deque[Sequence]] = {}
        self.last: str | None = None
        """Whose line ended last."""

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __contains__(self, line: str) -> bool:
        return line in self._lines

    @property
    def lines(self) -> tuple[str, ...]:
        """Who has somebody waiting."""
        return tuple(self._lines)

    def counts(self) -> dict[str, int]:
        """How many stand in each line."""
        return {name: len(line) for name, line in self._lines.items()}

    def append(self, seq: Sequence) -> None:
        """Wait at the end of the line."""
        self._lines.setdefault(self._line_of(seq), deque()).append(seq)

    def appendleft(self, seq: Sequence) -> None:
        """Wait at the head of the line."""
        self._lines.setdefault(self._line_of(seq), deque()).appendleft(seq)

    def remove(self, seq: Sequence) -> None:
        """Wait no more. Raises KeyError or ValueError for one that does not wait."""
        name = self._line_of(seq)
        self._lines[name].remove(seq)
        if not self._lines[name]:
            del self._lines[name]
            self.last = name

    def heads(self, count: int) -> list[Sequence]:
        """The first ``count`` of every line: whoever starts next is among them."""
        return [line[i] for line in self._lines.values() for i in range(min(count, len(line)))]
