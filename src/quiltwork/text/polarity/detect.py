"""Whether two sentences say the same, the opposite, or things that cannot be set against one another.

Two sentences about the same words are opposite where one denies what the other says (a cue of negation without one on
the other side), or says it with an antonym, but not where it does both: negation XOR antonym (for short sentences this
is what ``not thin`` and ``fat`` need), each cue set off only against what it governs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from quiltwork.text.polarity.align import align
from quiltwork.text.polarity.cues import cues_of
from quiltwork.text.polarity.findings import findings_of
from quiltwork.text.polarity.lexicon import Lexicon, shipped_lexicon
from quiltwork.text.polarity.words import cut

Kind = Literal["same", "opposite", "unknown"]
GATE = 0.7
"""The overlap from which sentences are held against one another."""


@dataclass(frozen=True)
class Evidence:
    """A word (or phrase) that the answer rests on.

    sentence : 0 for the first, 1 for the second. start, end : where it stands, in characters. text : as it stands
    there. why : what is made of it.
    """

    sentence: int
    start: int
    end: int
    text: str
    why: str


@dataclass(frozen=True)
class Polarity:
    """kind : ``same``, ``opposite``, or ``unknown`` where the sentences share too little. evidence : in the order of
    the sentences. overlap : part of the shorter sentence's content words that answer to a word of the other, 0 to 1."""

    kind: Kind
    evidence: tuple[Evidence, ...]
    overlap: float


def polarity_of(a: str, b: str, lexicon: Lexicon | None = None, gate: float = GATE) -> Polarity:
    """Whether ``b`` says the opposite of ``a``. The same both ways round, but for the evidence's numbers of sentences.

    lexicon : antonyms; by default the ones that come with the package.
    """
    if (b, a) < (a, b):  # one order for both ways round, so that no choice can depend on it
        turned = polarity_of(b, a, lexicon, gate)
        return replace(turned, evidence=tuple(_other_way(turned.evidence)))
    known = shipped_lexicon() if lexicon is None else lexicon
    words = cut(a), cut(b)
    cues = cues_of(words[0]), cues_of(words[1])
    aligned = align(*words, cues, known)
    findings = findings_of(words, cues, aligned)
    flips = any(finding.flips for finding in findings)
    kind: Kind = "unknown" if aligned.overlap < gate else "opposite" if flips else "same"
    texts = a, b
    evidence = sorted(
        (Evidence(s, words[s][i].start, words[s][j - 1].end, texts[s][words[s][i].start : words[s][j - 1].end], why)
         for finding in findings for s, i, j, why in finding.where),
        key=lambda e: (e.sentence, e.start, e.end, e.why),
    )  # fmt: skip
    return Polarity(kind, tuple(evidence), aligned.overlap)


def _other_way(evidence: Sequence[Evidence]) -> list[Evidence]:
    turned = (replace(e, sentence=1 - e.sentence) for e in evidence)
    return sorted(turned, key=lambda e: (e.sentence, e.start, e.end, e.why))
