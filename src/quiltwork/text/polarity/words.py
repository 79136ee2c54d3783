"""A sentence cut into words that know where they stood, with the marks between them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from quiltwork.text.pipeline import snowball
from quiltwork.text.polarity.morphology import JOINED
from quiltwork.text.stops import stop_list

_CUT = re.compile(r"[^\W_]+(?=n['’]t\b)|n['’]t\b|['’](?:s|re|ve|ll|d|m)\b|[^\W_]+|[^\w\s]", re.IGNORECASE)
_PREFIX = re.compile(rf"(?<![\w-])({'|'.join(sorted(JOINED))})\s?[-‐‑–]\s?(?=[^\W\d_]{{3}})", re.IGNORECASE)
_APART = {"cannot": ("can", "not"), "dont": ("do", "n't"), "cant": ("ca", "n't"), "wont": ("wo", "n't")}


@dataclass(frozen=True)
class Word:
    """text : lower case, NFKC. start, end : where it stood in the sentence, in characters. stem : Snowball's.
    mark : whether it is no word but punctuation. function : a stop word. name : written in capitals alone."""

    text: str
    start: int
    end: int
    stem: str
    mark: bool = False
    function: bool = False
    name: bool = False


def cut(sentence: str) -> tuple[Word, ...]:
    """The words and marks of a sentence. Hyphens part words, but not a prefix that turns a meaning around from what it
    turns; so does an underscore. ``n't`` is a word of its own, as is ``not`` of ``cannot``. What is never seen (control
    characters, soft hyphens, marks of byte order) is not there."""
    text, kept = _joined(*_seen(sentence))
    shouting = text.isupper()
    found = []
    for match in _CUT.finditer(text):
        start, end = kept[match.start()], kept[match.end() - 1] + 1
        plain = unicodedata.normalize("NFKC", match[0]).lower().replace("’", "'")
        for part in _APART.get(plain, (plain,)):
            mark = not any(c.isalnum() for c in part)
            capitals = match[0].isupper() and not shouting and len(part) > 1
            found.append(Word(part, start, end, _stem(part), mark, part in _functions(), capitals))
    return tuple(found)


def _seen(sentence: str) -> tuple[str, Sequence[int]]:
    """Without what is never seen, and where each character that is left stood."""
    if sentence.isprintable():
        return sentence, range(len(sentence))
    kept = [i for i, c in enumerate(sentence) if c.isspace() or unicodedata.category(c)[0] != "C"]
    return "".join(sentence[i] for i in kept), kept


def _joined(text: str, kept: Sequence[int]) -> tuple[str, Sequence[int]]:
    """Without the hyphens (and what blanks are around them) after prefixes: non-toxic, down - regulated."""
    left: list[int] = []
    at = 0
    for match in _PREFIX.finditer(text):
        left += range(at, match.end(1))
        at = match.end()
    if not at:
        return text, kept
    left += range(at, len(text))
    return "".join(text[i] for i in left), [kept[i] for i in left]


@lru_cache(maxsize=1 << 16)
def _stem(word: str) -> str:
    return snowball(word)


@lru_cache(maxsize=1)
def _functions() -> frozenset[str]:
    stops = stop_list("nltk")
    return (stops.words - stops.negators) | frozenset(_MORE_FUNCTIONS)


_MORE_FUNCTIONS = (
    "'s", "'re", "'ve", "'ll", "'d", "'m", "ca", "wo", "could", "may", "might", "must", "shall", "would", "should",
    "also", "either", "yet", "even", "ever", "still", "upon", "us", "much", "many", "let", "get", "got", "anything",
    "anyone", "anybody", "anywhere", "something", "someone", "somebody", "everything", "everyone", "everybody",
    "every", "one",
)  # fmt: skip
"""Auxiliaries, pronouns and particles that the stop list leaves out."""
