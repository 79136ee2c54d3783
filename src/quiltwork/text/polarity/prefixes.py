"""Antonyms that a prefix makes, where the words of a corpus and WordNet's glosses give a reason to think so."""

from __future__ import annotations

import re
from collections import Counter

from quiltwork.text.polarity.lexicon import Entry
from quiltwork.text.polarity.morphology import CHECKED, DENYING, OPPOSED, SHORTEST, SUFFIXES, formed_opposite
from quiltwork.text.polarity.wordnet import WordNet

OFTEN = 5
"""How often a corpus has to have both words."""
_DENIES = re.compile(
    r"\b(not|no|lack\w*|without|absence|opposite|undo|reverse|remove|deprive|un\w+|contrary|against|free)\b"
)
_UNDONE = re.compile(r"de\w+(at|iz|is|ify|ifi|press|grad|capp|regulat)\w*")
"""Verbs that ``de-`` undoes are those made with the endings -ate, -ize and -ify (dephosphorylate, demethylation)."""


def formed_by_prefix(words: Counter[str], wordnet: WordNet) -> list[Entry]:
    """Pairs of words that are both in the corpus, of which one denies the other by its form."""
    common = {word: n for word, n in words.items() if n >= OFTEN}
    found = []
    for word in common:
        for prefix in (*CHECKED, *DENYING):
            rest = word[len(prefix) :]
            if word.startswith(prefix) and len(rest) >= SHORTEST and rest in common:
                reason = f"{prefix}-" if prefix in DENYING else _reason(word, prefix, rest, wordnet)
                if reason:
                    found.append(_entry(rest, word, reason, common))
        for other in _swapped(word):
            if other in common and word < other and (rule := formed_opposite(word, other)):
                found.append(_entry(word, other, rule, common))
    return found


def _entry(a: str, b: str, rule: str, counts: dict[str, int]) -> Entry:
    a, b = sorted((a, b))
    return Entry("pair", a, b, "prefix", f"{rule} {counts[a]} {counts[b]}")


def _swapped(word: str) -> list[str]:
    pairs = [(word[len(one) :], other) for one, other in OPPOSED if word.startswith(one)]
    ends = [word[: -len(one)] + other for one, other in SUFFIXES if word.endswith(one)]
    return [other + rest for rest, other in pairs if len(rest) >= SHORTEST] + ends


def _reason(word: str, prefix: str, rest: str, wordnet: WordNet) -> str | None:
    """``in-``, ``dis-`` and their like deny where WordNet's gloss says so; ``de-`` also where a verb's ending does."""
    for part in "avnr":
        lemma, of = wordnet.lemma(word, part), wordnet.lemma(rest, part)
        if lemma and of and lemma == prefix + of:
            for key in wordnet.senses[part, lemma][:1]:
                gloss = wordnet.synsets[key].gloss
                stem = of[: max(SHORTEST, len(of) - 3)]
                if _DENIES.search(gloss.split(";")[0]) and re.search(rf"\b{re.escape(stem)}", gloss):
                    return f"{prefix}- gloss"
    if prefix == "de" and _UNDONE.fullmatch(word) and wordnet.lemma(word, "a") is None:
        return "de- ending"
    return None
