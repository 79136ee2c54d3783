"""What a sentence goes through before it is measured: pipelines by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from quiltwork.core.errors import BadInputError
from quiltwork.core.registry import missing_package
from quiltwork.text.stops import StopList, stop_list
from quiltwork.text.tokens import bare_words, corenlp_tokens


@dataclass(frozen=True)
class Prepared:
    """tokens : what measures see. negators : the stop words that deny something, in the sentence's order; they are told
    whether the pipeline kept them or not. Words that deny and are no stop words (``never``, ``n't``) are in tokens."""

    tokens: tuple[str, ...]
    negators: tuple[str, ...]


@dataclass(frozen=True)
class Pipeline:
    """Called with a sentence, gives what is left of it. A pure function: the same sentence gives the same tokens.

    tokenize : cuts it into lower-case tokens. stops : words that are dropped, with those that deny tagged.
    marks : tokens that are dropped with them. stem : what is done to each that is left.
    keep_negators : stop words that deny stay, so that a sentence and its denial differ.
    """

    name: str
    tokenize: Callable[[str], tuple[str, ...]]
    stops: StopList
    marks: frozenset[str] = frozenset()
    stem: Callable[[str], str] | None = None
    keep_negators: bool = False

    def __call__(self, sentence: str) -> Prepared:
        found = self.tokenize(sentence)
        dropped = self.marks | (self.stops.words - self.stops.negators if self.keep_negators else self.stops.words)
        kept = tuple(token for token in found if token not in dropped)
        return Prepared(
            kept if self.stem is None else tuple(self.stem(token) for token in kept),
            tuple(token for token in found if token in self.stops.negators),
        )


def snowball(word: str) -> str:
    """The stem of an English word in lower case, by Snowball's English rules. Raises QuiltworkError without NLTK."""
    return str(_stemmer().stem(word))


@cache
def _stemmer() -> Any:
    """NLTK's, because it holds no state between words: threads may share it."""
    try:
        from nltk.stem.snowball import SnowballStemmer
    except ModuleNotFoundError as error:
        raise missing_package(error, where="pipeline stemmed") from error
    return SnowballStemmer("english")


@cache
def _paper() -> Pipeline:
    return Pipeline("paper", corenlp_tokens, stop_list("nltk"), marks=frozenset(".,-!;/?:"))


@cache
def _stemmed() -> Pipeline:
    return Pipeline("stemmed", bare_words, stop_list("nltk"), stem=snowball)


@cache
def _stemmed_with_negators() -> Pipeline:
    return replace(_stemmed(), name=DEFAULT, keep_negators=True)


DEFAULT = "stemmed+negators"
"""What is used where nobody names a pipeline."""
PIPELINES: Mapping[str, Callable[[], Pipeline]] = {
    DEFAULT: _stemmed_with_negators, "stemmed": _stemmed, "paper": _paper,
}  # fmt: skip
"""``paper`` : as Blagec et al. prepare sentences for string measures: CoreNLP's tokens, hyphens apart, without NLTK's
stop words and eight marks; brackets and quotes stay. ``stemmed`` : words without any mark, without the same stop words,
and their stems. ``stemmed+negators`` : the same, but words that deny stay. For other lists, ``dataclasses.replace`` a
field."""


def pipeline_named(name: str) -> Pipeline:
    """Raises BadInputError for a name that is not in ``PIPELINES``."""
    if name not in PIPELINES:
        raise BadInputError(f"{name[:40]!r} is not one of {', '.join(PIPELINES)}", where="pipeline")
    return PIPELINES[name]()
