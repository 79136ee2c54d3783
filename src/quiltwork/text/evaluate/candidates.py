"""What is held against a gold set by default: measures of words, models by where they come from, means of those."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from quiltwork.text.fuzzy import FUZZY
from quiltwork.text.measures import measure_named
from quiltwork.text.pipeline import pipeline_named
from quiltwork.text.scorer import Mean, Scorer, Words

Kind = Literal["strings", "peer", "own", "pretrained", "fused", "published"]
"""Measures of words and letters; other libraries' of the same; models that were trained on a corpus of the user's;
pretrained ones; means and regressions of those; scores that somebody published for these pairs."""

STRINGS = "lexical"
"""The measure of words that is fused with models: by itself the best on CTR."""


@dataclass(frozen=True)
class Candidate:
    """A scorer and where it comes from."""

    kind: Kind
    scorer: Scorer

    @property
    def name(self) -> str:
        return self.scorer.name


def words(measure: str, pipeline: str = "stemmed") -> Words:
    """A measure after a pipeline; its name tells the pipeline where that is not ``stemmed``."""
    name = measure if pipeline == "stemmed" else f"{measure} ({pipeline})"
    return Words(name, measure_named(measure), pipeline_named(pipeline))


def string_candidates() -> tuple[Candidate, ...]:
    """Measures that need no training: after ``stemmed``; as Blagec et al. have them, after ``paper``; RapidFuzz's."""
    plain = [words(name) for name in ("jaccard", "qgram", "block", "liblock", "cosine", "soft", STRINGS)]
    papers = [words(name, "paper") for name in ("jaccard", "qgram", "liblock")]
    fuzzy = [Candidate("peer", words(name)) for name in FUZZY]
    return (*(Candidate("strings", scorer) for scorer in (*plain, *papers)), *fuzzy)


def fusions(own: Sequence[Scorer], pretrained: Sequence[Scorer]) -> tuple[Candidate, ...]:
    """Plain means of the strings' measure with models, for the question what each kind adds. Several models of one kind
    count as their mean, so that two of them do not outweigh the rest."""
    strings = words(STRINGS)
    kinds: list[tuple[str, Scorer]] = [("strings", strings)]
    made: list[Scorer] = []
    for kind, scorers in (("own", own), ("pretrained", pretrained)):
        if len(scorers) > 1:
            made.append(Mean(f"mean({kind})", tuple(scorers)))
        if scorers:
            kinds.append((kind, made[-1] if len(scorers) > 1 else scorers[0]))
    for picked in _with_strings([scorer for _, scorer in kinds]):
        made.append(Mean(f"mean({', '.join(scorer.name for scorer in picked)})", picked))
    return tuple(Candidate("fused", scorer) for scorer in made)


def _with_strings(scorers: Sequence[Scorer]) -> Iterable[tuple[Scorer, ...]]:
    """The first with each other one, and all at once."""
    yield from ((scorers[0], other) for other in scorers[1:])
    if len(scorers) > 2:
        yield tuple(scorers)
