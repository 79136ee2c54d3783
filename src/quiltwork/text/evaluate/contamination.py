"""Whether sentences that a model is judged on stand in the text that it was trained on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from quiltwork.core.errors import BadInputError

RUN = 8
"""Words in a row that two texts rarely have in common by chance."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Hit:
    """A sentence and the line of the training text that has most of its runs of words.

    share : how many of its runs the line has, from 0 to 1. line : the line's number, from 1; text : the line.
    """

    sentence: str
    share: float
    line: int
    text: str


@dataclass(frozen=True)
class Contamination:
    """hits : for each sentence that has a run in common with some line, the worst; by falling share. sentences : how
    many were looked for; short : how many were not, having fewer words than a run. lines : how many were read."""

    hits: tuple[Hit, ...]
    sentences: int
    short: int
    lines: int

    def above(self, share: float) -> int:
        """How many sentences have more than this share of their runs in one line."""
        return sum(hit.share > share for hit in self.hits)


def contamination(sentences: Iterable[str], training: Iterable[str], *, run: int = RUN) -> Contamination:
    """Look for every run of ``run`` words of the sentences in each line of the training text. Case, punctuation and
    blanks do not count; hyphens come apart, so that texts that were cut differently are still found.

    Only lines with ``run`` words in a row that the sentences have at all are looked at closely, so that a million lines
    take seconds. Raises BadInputError for a run of no words.
    """
    if run < 1:
        raise BadInputError(f"{run} words are no run", where="contamination")
    distinct = list(dict.fromkeys(sentences))
    runs = [_runs(_WORD.findall(sentence.lower()), run) for sentence in distinct]
    owners: dict[tuple[str, ...], list[int]] = {}
    for at, held in enumerate(runs):
        for words in held:
            owners.setdefault(words, []).append(at)
    vocabulary = frozenset(word for words in owners for word in words)
    worst: dict[int, Hit] = {}
    lines = 0
    for line in training:
        lines += 1
        for at, count in _shared(line, run, vocabulary, owners).items():
            share = count / len(runs[at])
            if at not in worst or share > worst[at].share:
                worst[at] = Hit(distinct[at], share, lines, line.strip())
    hits = tuple(sorted(worst.values(), key=lambda hit: -hit.share))
    return Contamination(hits, sum(map(bool, runs)), sum(not held for held in runs), lines)


def _runs(words: Sequence[str], run: int) -> set[tuple[str, ...]]:
    return {tuple(words[at : at + run]) for at in range(len(words) - run + 1)}


def _shared(line: str, run: int, vocabulary: frozenset[str], owners: dict[tuple[str, ...], list[int]]) -> Counter[int]:
    """How many distinct runs of each sentence the line has."""
    words = _WORD.findall(line.lower())
    found: set[tuple[str, ...]] = set()
    known = 0
    for at, word in enumerate(words):
        known = known + 1 if word in vocabulary else 0
        if known >= run and (words_here := tuple(words[at - run + 1 : at + 1])) in owners:
            found.add(words_here)
    return Counter(owner for words_here in found for owner in owners[words_here])
