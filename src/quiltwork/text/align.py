"""Which words of two sentences stand for each other, which have no counterpart, and which deny."""

from __future__ import annotations

import unicodedata
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from quiltwork.core.servable import Json
from quiltwork.text.overlap import qgram
from quiltwork.text.pipeline import snowball
from quiltwork.text.stops import stop_list
from quiltwork.text.tokens import corenlp_tokens

ALIKE = 0.5
"""Two words with so much of their letters in common (``qgram``) stand for each other."""
MOST_WORDS = 100
"""Words of a sentence that are compared letter by letter; beyond them only equal ones are found."""
_STOPS = "nltk"
_CONTRACTED = frozenset({"n't", "never", "without", "neither", "none", "cannot"})
"""What denies and is on no list of stop words."""


@dataclass(frozen=True)
class Word:
    """A word as the sentence has it, in lower case, and what it is compared by."""

    text: str
    stem: str


@dataclass(frozen=True)
class Alignment:
    """aligned : pairs of words that stand for each other. only_a, only_b : words without a counterpart.
    denials_a, denials_b : words that deny, in the sentences' order."""

    aligned: tuple[tuple[str, str], ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    denials_a: tuple[str, ...]
    denials_b: tuple[str, ...]

    def to_json(self) -> dict[str, Json]:
        """As JSON."""
        return {
            "aligned": [list(pair) for pair in self.aligned],
            "missing": {"a": list(self.only_a), "b": list(self.only_b)},
            "denials": {"a": list(self.denials_a), "b": list(self.denials_b)},
        }


def align(a: str, b: str) -> Alignment:
    """Words of the same stem first, then the nearest in letters; stop words are left out, those that deny apart."""
    (left, denials_a), (right, denials_b) = _words(a), _words(b)
    found: list[tuple[str, str]] = []
    places: dict[str, deque[int]] = {}
    for at, word in enumerate(right):
        places.setdefault(word.stem, deque()).append(at)
    only_a, matched = [], set()
    for word in left:
        if places.get(word.stem):
            at = places[word.stem].popleft()
            matched.add(at)
            found.append((word.text, right[at].text))
        else:
            only_a.append(word)
    only_b = [word for at, word in enumerate(right) if at not in matched]
    near = _near(only_a[:MOST_WORDS], only_b[:MOST_WORDS])
    found += [(only_a[at].text, only_b[to].text) for at, to in near.items()]
    rest_a = tuple(word.text for at, word in enumerate(only_a) if at not in near)
    taken = set(near.values())
    rest_b = tuple(word.text for at, word in enumerate(only_b) if at not in taken)
    return Alignment(tuple(found), rest_a, rest_b, tuple(denials_a), tuple(denials_b))


def _near(left: Sequence[Word], right: Sequence[Word]) -> dict[int, int]:
    """The nearest pairs of words by their places, each word once; of equally near ones those that stand first."""
    scored = [
        (-score, at, to)
        for at, word in enumerate(left)
        for to, other in enumerate(right)
        if (score := qgram((word.stem,), (other.stem,))) >= ALIKE
    ]
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for _, at, to in sorted(scored):
        if at not in pairs and to not in taken:
            pairs[at] = to
            taken.add(to)
    return pairs


def _words(sentence: str) -> tuple[list[Word], list[str]]:
    stops = stop_list(_STOPS)
    words: list[Word] = []
    denials: list[str] = []
    for token in corenlp_tokens(unicodedata.normalize("NFKC", sentence)):
        if token in stops.negators or token in _CONTRACTED:
            denials.append(token)
        elif token not in stops.words and any(letter.isalnum() for letter in token):
            words.append(Word(token, snowball(token)))
    return words, denials
