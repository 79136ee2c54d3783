"""How the sources of the lexicon of antonyms are chosen: what they find of WordNet's antonyms that they are not told.

    python -m work.lexicon_choose WORDNET CORPUS...      (in benchmarks)

Verbs that WordNet has as antonyms are held out a fifth at a time, with every antonym of words that begin like them;
what is left makes a lexicon, and the table says how many of them it sets against one another, by source. Beside them
stand verbs of one synset, which no lexicon should. Nothing here reads BIOSSES, SemAntoNeg or the swaps of
``work.swaps``.
"""

from __future__ import annotations

import copy
import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from quiltwork.text.pipeline import snowball
from quiltwork.text.polarity.lexicon import Entry, Lexicon
from quiltwork.text.polarity.patterns import Counted, count
from quiltwork.text.polarity.recipe import entries_of
from quiltwork.text.polarity.wordnet import WordNet

FOLDS = 5
OFTEN = 20
"""How often the corpus has to have the past form of a verb that is asked about."""
SENSES = 2
ALIKE = 4
"""Letters: words that begin with the same ones are taken for one family (inhibit, inhibition)."""
Pair = tuple[str, str]
Recipe = Callable[[WordNet, Counted], list[Entry]]


def main(folder: Path, corpora: Sequence[Path]) -> None:
    """Print the table."""
    wordnet, counted = WordNet(folder), count(corpora)
    print(judged(wordnet, counted))


def judged(wordnet: WordNet, counted: Counted, recipe: Recipe = entries_of) -> str:
    """What a recipe finds of antonyms held out, and what of synonyms it takes for antonyms."""
    held_out = sorted(antonymous_verbs(wordnet, counted))
    found: dict[Pair, str] = {}
    for fold in range(FOLDS):
        asked = [pair for pair in held_out if _fold(pair) == fold]
        found |= opposed(asked, Lexicon(recipe(without(wordnet, asked), counted)))
    alike = sorted(synonymous_verbs(wordnet, counted) - set(held_out))
    wrong = opposed(alike, Lexicon(recipe(wordnet, counted)))
    lines = [f"antonyms held out: {len(found)} of {len(held_out)} {_sources(found)}",
             *(f"    {a} {b}: {why}" for (a, b), why in sorted(found.items())),
             f"synonyms taken for antonyms: {len(wrong)} of {len(alike)} {_sources(wrong)}",
             *(f"    {a} {b}: {why}" for (a, b), why in sorted(wrong.items()))]  # fmt: skip
    return "\n".join(lines)


def opposed(pairs: Sequence[Pair], lexicon: Lexicon) -> dict[Pair, str]:
    """Those that a lexicon sets against one another, and why; what a rule of word formation finds is left out."""
    told = {(a, b): lexicon.why_opposite((a, snowball(a)), (b, snowball(b))) for a, b in pairs}
    return {pair: why for pair, why in told.items() if why and not why.startswith("prefix")}


def antonymous_verbs(wordnet: WordNet, counted: Counted) -> set[Pair]:
    """Pairs that WordNet's own pointer sets against one another, both of them frequent, not formed alike."""
    found = set()
    for key, pointer in wordnet.pointers("!"):
        if key[0] == "v":
            a, b = sorted((wordnet.words(key, pointer.source)[0], wordnet.words(pointer.synset, pointer.target)[0]))
            if _frequent(a, counted) and _frequent(b, counted) and a[-ALIKE:] != b[-ALIKE:]:
                found.add((a, b))
    return found


def synonymous_verbs(wordnet: WordNet, counted: Counted) -> set[Pair]:
    """Pairs of one synset that is among the first senses of both, both of them frequent."""
    return {
        (a, b)
        for key, synset in wordnet.synsets.items()
        if key[0] == "v"
        for a in synset.words
        for b in synset.words
        if a < b and all(_frequent(w, counted) and key in wordnet.senses["v", w][:SENSES] for w in (a, b))
    }


def without(wordnet: WordNet, pairs: Sequence[Pair]) -> WordNet:
    """WordNet less the antonyms of words that begin like those of a pair, of any part of speech."""
    families = {frozenset((a[:ALIKE], b[:ALIKE])) for a, b in pairs}
    left = copy.copy(wordnet)
    left.synsets = {
        key: replace(synset, pointers=tuple(
            pointer for pointer in synset.pointers
            if pointer.symbol != "!" or not any(family in families for family in _families(wordnet, key, pointer))
        ))
        for key, synset in wordnet.synsets.items()
    }  # fmt: skip
    return left


def _families(wordnet: WordNet, key: tuple[str, int], pointer: object) -> Iterator[frozenset[str]]:
    for a in wordnet.words(key, pointer.source):  # type: ignore[attr-defined]
        for b in wordnet.words(pointer.synset, pointer.target):  # type: ignore[attr-defined]
            yield frozenset((a[:ALIKE], b[:ALIKE]))


def _frequent(word: str, counted: Counted) -> bool:
    return word.isalpha() and counted.words[f"{word}ed"] + counted.words[f"{word}d"] >= OFTEN


def _fold(pair: Pair) -> int:
    return hashlib.sha256(" ".join(pair).encode()).digest()[0] % FOLDS


def _sources(found: dict[Pair, str]) -> str:
    return ", ".join(f"{source} {n}" for source, n in sorted(Counter(why.split()[0] for why in found.values()).items()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
