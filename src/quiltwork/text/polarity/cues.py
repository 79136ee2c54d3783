"""Words that deny, and which words of the sentence each of them governs.

The rules are of the type of NegEx (Chapman et al. 2001): cues of the closed classes of English, phrases that look like
cues and deny nothing, and words that end what a cue governs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from quiltwork.text.polarity.words import Word

Kind = Literal["adverb", "determiner", "pronoun", "preposition", "verb", "sentence", "prefix", "pseudo"]


@dataclass(frozen=True)
class Cue:
    """A cue at words ``start`` to ``end`` (half open), and the places of the words that it governs: all words that are
    no marks up to where its clause ends."""

    kind: Kind
    start: int
    end: int
    scope: range


_LISTED: Mapping[Kind, str] = {
    "adverb": "not|n't|never|no longer|no more|nowhere|hardly|scarcely|barely|rarely|seldom|by no means|in no way",
    "determiner": "no|neither|nor|few|little",
    "pronoun": "none|nobody|nothing|no one",
    "preposition": "without|absence of|lack of|devoid of|free of|free from|instead of|rather than",
    "verb": "fail to|fails to|failed to|failing to|failure to|failure of|unable to|inability to|inability of|"
    "incapable of|lack|lacks|lacked|lacking|refuse to|refuses to|refused to|deny|denies|denied|denying|"
    "cease to|ceases to|ceased to|rule out|rules out|ruled out|negative for|neglect to|neglected to|neglects to",
    "sentence": "not the case that|n't the case that|not true that|n't true that|no longer true that",
    "prefix": "non",
    "pseudo": "not only|not just|not merely|not simply|not to mention|whether or not|or not|if not|no doubt|"
    "without doubt|without question|no matter|no wonder|nothing but|a few|a little|the few|the little|these few|"
    "those few|quite a few|few of the|as little as|as few as|not until|no sooner|not yet known if|little finger",
}
CUES: Mapping[tuple[str, ...], Kind] = {
    tuple(phrase.split()): kind for kind, phrases in _LISTED.items() for phrase in phrases.split("|")
}
"""Closed classes: adverbs, determiners, pronouns and prepositions that deny, verbs and adjectives that deny what they
take, frames that deny all that follows (it is not true that), and ``non`` apart from its word.
``pseudo`` deny nothing, or deny it of something else."""
_LONGEST = max(map(len, CUES))

ENDS = frozenset(
    [
        "but",
        "however",
        "although",
        "though",
        "whereas",
        "while",
        "because",
        "nevertheless",
        "yet",
        "except",
        "unless",
        "which",
        "who",
        "whom",
        "whose",
        ".",
        ";",
        ":",
        "?",
        "!",
        "nor",
    ]
)
"""What a cue governs ends before these."""
_LIST_GOES_ON = frozenset(("or", "nor"))
_PERSONS = frozenset(["i", "you", "he", "she", "it", "we", "they", "there"])
LIST_SPAN = 6


def cues_of(words: Sequence[Word]) -> tuple[Cue, ...]:
    """Cues in their order; those of kind ``pseudo`` are not among them, but hide what they are made of."""
    found = []
    at = 0
    while at < len(words):
        phrase = _phrase_at(words, at)
        if phrase:
            kind = CUES[phrase]
            end = at + len(phrase)
            if kind != "pseudo" and not _is_name(words, at) and not _is_answer(words, at, end):
                found.append(Cue(kind, at, end, _governed(words, kind, end)))
            at = end
        else:
            at += 1
    return tuple(found)


def _phrase_at(words: Sequence[Word], at: int) -> tuple[str, ...]:
    for length in range(min(_LONGEST, len(words) - at), 0, -1):
        phrase = tuple(word.text for word in words[at : at + length])
        if phrase in CUES:
            return phrase
    return ()


def _is_name(words: Sequence[Word], at: int) -> bool:
    """NO is nitric oxide, unless everything is in capitals; No. 5 is a number."""
    if words[at].text != "no":
        return False
    after = [word.text for word in words[at + 1 : at + 3]]
    return words[at].name or (after[:1] == ["."] and after[1:2] != [] and after[1].isdigit())


def _is_answer(words: Sequence[Word], start: int, end: int) -> bool:
    """No, it is; it is, isn't it?"""
    after = [word.text for word in words[end : end + 2]]
    if words[start].text == "no":
        return after[:1] == [","]
    return words[start].text == "n't" and after[:1] != [] and after[0] in _PERSONS and after[1:] in ([], ["?"])


def _governed(words: Sequence[Word], kind: Kind, start: int) -> range:
    if kind == "prefix":
        while start < len(words) and words[start].mark:
            start += 1
        return range(start, min(start + 1, len(words)))
    if kind == "sentence":
        return range(start, len(words))
    for at in range(start, len(words)):
        text = words[at].text
        if text in ENDS or (text in (",", ")", "(") and not _goes_on(words, at)):
            return range(start, at)
    return range(start, len(words))


def _goes_on(words: Sequence[Word], at: int) -> bool:
    """Whether a list goes on after a comma: no A, B or C."""
    for word in words[at + 1 : at + 1 + LIST_SPAN]:
        if word.text in _LIST_GOES_ON:
            return True
        if word.text in ENDS:
            return False
    return False
