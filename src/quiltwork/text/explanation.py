"""Why two sentences are alike or not, in their own words: which of them answer to each other, and which deny."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quiltwork.core.servable import Json

if TYPE_CHECKING:
    from quiltwork.text.polarity.lexicon import Lexicon


@dataclass(frozen=True)
class Span:
    """A word or phrase of a sentence: ``sentence[start:end]``, in characters."""

    text: str
    start: int
    end: int

    def to_json(self) -> dict[str, Json]:
        """As JSON."""
        return {"text": self.text, "start": self.start, "end": self.end}


@dataclass(frozen=True)
class Explanation:
    """aligned : words of one stem, first sentence's and second's; opposed : those that are antonyms, and where that is
    known from. missing : words of content without an answer, by sentence. denials : cues of negation, by sentence.
    overlap : part of the shorter sentence's content words that have an answer, 0 to 1."""

    aligned: tuple[tuple[Span, Span], ...]
    opposed: tuple[tuple[Span, Span, str], ...]
    missing: tuple[tuple[Span, ...], tuple[Span, ...]]
    denials: tuple[tuple[Span, ...], tuple[Span, ...]]
    overlap: float

    def to_json(self) -> dict[str, Json]:
        """As JSON; the sentences are called a and b."""
        return {
            "aligned": [{"a": a.to_json(), "b": b.to_json()} for a, b in self.aligned],
            "opposed": [{"a": a.to_json(), "b": b.to_json(), "why": why} for a, b, why in self.opposed],
            "missing": _by_side(self.missing),
            "denials": _by_side(self.denials),
            "overlap": round(self.overlap, 4),
        }


def explain(a: str, b: str, lexicon: Lexicon | None = None) -> Explanation:
    """Take two sentences apart. It looks at words alone, as the polarity does, whatever model scored the sentences.

    lexicon : antonyms; by default the ones that come with the package.
    """
    from quiltwork.text.polarity.align import align
    from quiltwork.text.polarity.cues import cues_of
    from quiltwork.text.polarity.lexicon import shipped_lexicon
    from quiltwork.text.polarity.words import cut

    texts, words = (a, b), (cut(a), cut(b))
    cues = cues_of(words[0]), cues_of(words[1])
    found = align(*words, cues, shipped_lexicon() if lexicon is None else lexicon)

    def span(side: int, first: int, last: int) -> Span:
        start, end = words[side][first].start, words[side][last].end
        return Span(texts[side][start:end], start, end)

    return Explanation(
        aligned=tuple((span(0, i, i), span(1, j, j)) for i, j in found.same),
        opposed=tuple((span(0, pair.a, pair.a), span(1, pair.b, pair.b), pair.why) for pair in found.opposed),
        missing=(tuple(span(0, i, i) for i in found.left_a), tuple(span(1, j, j) for j in found.left_b)),
        denials=(
            tuple(span(0, cue.start, cue.end - 1) for cue in cues[0]),
            tuple(span(1, cue.start, cue.end - 1) for cue in cues[1]),
        ),
        overlap=found.overlap,
    )


def _by_side(spans: tuple[Sequence[Span], Sequence[Span]]) -> dict[str, Json]:
    return {side: [span.to_json() for span in found] for side, found in zip("ab", spans, strict=True)}
