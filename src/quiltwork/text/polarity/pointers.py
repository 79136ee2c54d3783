"""Antonyms that WordNet has: by its own pointer, by a synonym or a satellite of a word that has one, by
derivation."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from quiltwork.text.polarity.lexicon import Entry
from quiltwork.text.polarity.wordnet import Pointer, WordNet

_ONE_WORD = re.compile(r"[a-z]{2,}")
COMMON_SENSES = 2
"""A synonym or satellite counts for the first senses of its word alone: what it seldom means makes odd antonyms."""


def antonyms_of(wordnet: WordNet) -> list[Entry]:
    """All of them, surest first."""
    direct = sorted(set(_direct(wordnet)))
    found = [Entry("pair", a, b, "wordnet:antonym", part) for a, b, part in direct]
    known = {(a, b) for a, b, _ in direct}
    for source, rows in (
        ("wordnet:synonym", _alike(wordnet, satellites=False)),
        ("wordnet:derived", _derived(wordnet)),
        ("wordnet:similar", _alike(wordnet, satellites=True)),
    ):
        for a, b, via in sorted(set(rows)):
            if (a, b) not in known:
                known.add((a, b))
                found.append(Entry("pair", a, b, source, via))
    return found


def forms_of(wordnet: WordNet, pairs: Iterable[Entry], counts: Counter[str], often: int) -> list[Entry]:
    """Forms of the words of these pairs that stems do not bring together: irregular ones (rose, of rise), and
    comparatives and superlatives of which the corpus has both (higher, highest). Not those that have an antonym of
    their own (left, of leave)."""
    kept = list(pairs)
    words = {word for entry in kept for word in (entry.a, entry.b)}
    direct = [entry for entry in kept if entry.source == "wordnet:antonym"]
    own = {word for entry in direct for word in (entry.a, entry.b)}
    own_adjectives = {word for entry in direct if entry.evidence == "a" for word in (entry.a, entry.b)}
    found = {
        form: Entry("form", form, of[0], "wordnet:form", part)
        for (part, form), of in sorted(wordnet.irregular.items())
        if of[0] in words and part in "va" and form not in own and _ONE_WORD.fullmatch(form)
    }
    for word in sorted(words):
        stem = word.removesuffix("e")
        more, most = f"{stem}er", f"{stem}est"
        if ("a", word) in wordnet.senses and min(counts[more], counts[most]) >= often:
            for form in (more, most):
                if form not in own_adjectives:
                    found.setdefault(form, Entry("form", form, word, "wordnet:form", f"a {counts[form]}"))
    return list(found.values())


def _direct(wordnet: WordNet) -> Iterator[tuple[str, str, str]]:
    for key, pointer in wordnet.pointers("!"):
        for a, b in _ends(wordnet, key, pointer):
            yield *sorted((a, b)), key[0]  # type: ignore[misc]


def _alike(wordnet: WordNet, satellites: bool) -> Iterator[tuple[str, str, str]]:
    """Words of the synset of an antonym (hard, being difficult, against easy), or satellites of an adjective that has
    one (rapid, being quick, against slow)."""
    around: dict[tuple[str, int], list[tuple[str, int]]] = {}
    if satellites:
        for key, pointer in wordnet.pointers("&"):
            around.setdefault(key, []).append(pointer.synset)
    for key, pointer in wordnet.pointers("!"):
        for a, b in _ends(wordnet, key, pointer):
            against = _common(wordnet, pointer.synset)
            for synset in around.get(key, ()) if satellites else (key,):
                for word in _common(wordnet, synset):
                    for other in {b, *against}:
                        if word != other and (word, other) != (a, b):
                            yield *sorted((word, other)), f"{word} as {a}, {other} as {b}"  # type: ignore[misc]


def _common(wordnet: WordNet, key: tuple[str, int]) -> list[str]:
    """Words of a synset that mean it often."""
    return [
        word
        for word in wordnet.synsets[key].words
        if key in wordnet.senses.get((key[0], word), [])[:COMMON_SENSES] and _ONE_WORD.fullmatch(word)
    ]


def _derived(wordnet: WordNet) -> Iterator[tuple[str, str, str]]:
    """What is derived from two antonyms in the same way: words of one part of speech with one ending."""
    family: dict[tuple[tuple[str, int], int], list[tuple[str, str]]] = {}
    for symbol in ("+", "\\"):
        for key, pointer in wordnet.pointers(symbol):
            if pointer.source and pointer.target:
                for word in wordnet.words(pointer.synset, pointer.target):
                    family.setdefault((key, pointer.source), []).append((pointer.synset[0], word))
                if symbol == "\\":  # an adverb points to its adjective, not back
                    for word in wordnet.words(key, pointer.source):
                        family.setdefault((pointer.synset, pointer.target), []).append((key[0], word))
    for key, pointer in wordnet.pointers("!"):
        a, b = wordnet.words(key, pointer.source)[0], wordnet.words(pointer.synset, pointer.target)[0]
        for part, x in family.get((key, pointer.source), ()):
            for other, y in family.get((pointer.synset, pointer.target), ()):
                if part == other and x[-3:] == y[-3:] and x != y and _ONE_WORD.fullmatch(x) and _ONE_WORD.fullmatch(y):
                    yield *sorted((x, y)), f"of {a} and {b}"  # type: ignore[misc]


def _ends(wordnet: WordNet, key: tuple[str, int], pointer: Pointer) -> list[tuple[str, str]]:
    """Words on either end of a pointer that are single words."""
    return [
        (a, b)
        for a in wordnet.words(key, pointer.source)
        for b in wordnet.words(pointer.synset, pointer.target)
        if _ONE_WORD.fullmatch(a) and _ONE_WORD.fullmatch(b) and a != b
    ]
