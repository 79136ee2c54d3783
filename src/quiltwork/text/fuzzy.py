"""Measures of RapidFuzz, over the words joined by blanks."""

from __future__ import annotations

from collections.abc import Callable

from quiltwork.core.registry import missing_package
from quiltwork.text.measure import Measure, Tokens, settled

FUZZY = ("levenshtein", "jaro_winkler", "token_sort", "token_set")
"""Edit distance over the longer length; Jaro and Winkler's; the share of letters in common of the words in order of the
alphabet; the same of the words that differ, which is 1 where one sentence's words are all in the other."""


def fuzzy(name: str) -> Measure:
    """The measure of that name, one of ``FUZZY``. Raises QuiltworkError where RapidFuzz is not installed."""
    score = _scorer(name)

    def formula(a: Tokens, b: Tokens) -> float:
        # Jaro's matching is greedy: in rare cases it depends on which text comes first.
        first, second = sorted((" ".join(a), " ".join(b)))
        return score(first, second)

    return settled(formula)


def _scorer(name: str) -> Callable[[str, str], float]:
    try:
        from rapidfuzz import fuzz
        from rapidfuzz.distance import JaroWinkler, Levenshtein
    except ModuleNotFoundError as error:
        raise missing_package(error, where=f"measure {name}") from error
    scorers: dict[str, Callable[[str, str], float]] = {
        "levenshtein": Levenshtein.normalized_similarity,
        "jaro_winkler": JaroWinkler.normalized_similarity,
        "token_sort": lambda a, b: fuzz.token_sort_ratio(a, b) / 100,
        "token_set": lambda a, b: fuzz.token_set_ratio(a, b) / 100,
    }
    return scorers[name]
