"""Finding stop strings in text that arrives in pieces."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence


class StopStrings:
    """A set of stop strings, sorted once so that ten thousand of them cost a few bisections per character."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._sorted = sorted(stops)
        self._first = frozenset(stop[0] for stop in stops)
        # Reversed, and without those that end in another: at most one of these is a prefix of any reversed text, and
        # it is the largest that is not greater.
        self._endings: list[str] = []
        for ending in sorted(stop[::-1] for stop in stops):
            if not self._endings or not ending.startswith(self._endings[-1]):
                self._endings.append(ending)

    def begins(self, text: str) -> bool:
        """Whether a stop string begins with ``text``."""
        at = bisect_left(self._sorted, text)
        return at < len(self._sorted) and self._sorted[at].startswith(text)

    def ends(self, text: str) -> bool:
        """Whether ``text`` ends in a stop string."""
        backwards = text[::-1]
        at = bisect_right(self._endings, backwards) - 1
        return at >= 0 and backwards.startswith(self._endings[at])

    def longest_ending(self, text: str) -> str:
        """The longest stop string that ``text`` ends in, or an empty string."""
        for start in range(len(text)):
            at = bisect_left(self._sorted, text[start:])
            if at < len(self._sorted) and self._sorted[at] == text[start:]:
                return text[start:]
        return ""

    def starts_with(self, character: str) -> bool:
        """Whether a stop string begins with this character."""
        return character in self._first


class StopScanner:
    """Passes text through, holding back what may yet become a stop string.

    The first stop string to be completed ends the text, whatever pieces it arrives in; of two completed by the same
    character the longer one counts.
    """

    def __init__(self, stops: StopStrings) -> None:
        self._stops = stops
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """Take a piece; return what may be shown, and the stop string if one is complete."""
        stops, held = self._stops, self._held
        shown: list[str] = []
        for character in text:
            if not held and not stops.starts_with(character):
                shown.append(character)
                continue
            held += character
            # ``held`` is the longest ending of the text that a stop string begins with.
            while held and not stops.begins(held):
                shown.append(held[0])
                held = held[1:]
                while held and not stops.starts_with(held[0]):
                    shown.append(held[0])
                    held = held[1:]
            if held and stops.ends(held):
                stop = stops.longest_ending(held)
                shown.append(held[: len(held) - len(stop)])
                self._held = ""
                return "".join(shown), stop
        self._held = held
        return "".join(shown), None

    def flush(self) -> str:
        """What was held back, once no more text comes."""
        held, self._held = self._held, ""
        return held
