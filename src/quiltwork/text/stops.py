"""Words that say little of what a sentence is about, and which of them deny it all the same.

The lists are files beside this one, a word a line; those that deny are tagged: ``not<TAB>negator``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from quiltwork.core.errors import BadInputError

STOP_LISTS = ("nltk", "ranks", "stanford")
"""NLTK's as it was until 2017 (127 words, and 26 pieces of contractions), ranks.nl's (174 words) and Stanford CoreNLP's
(255 words and marks). Blagec et al. compared these, and printed figures with the first."""

_TAG = "negator"


@dataclass(frozen=True)
class StopList:
    """words : lower-case tokens that a pipeline drops. negators : those of them that turn a meaning around.

    ``t`` (of ``don't``) is not tagged though ``don`` is: T cells are not denied.
    """

    name: str
    words: frozenset[str]
    negators: frozenset[str]


@cache
def stop_list(name: str) -> StopList:
    """Raises BadInputError for a name that is not in ``STOP_LISTS``."""
    if name not in STOP_LISTS:
        raise BadInputError(f"{name[:40]!r} is not one of {', '.join(STOP_LISTS)}", where="stop list")
    text = files(__package__).joinpath("stop_words", f"{name}.txt").read_text(encoding="utf-8")
    rows = [line.partition("\t") for line in text.splitlines()]
    return StopList(name, frozenset(row[0] for row in rows), frozenset(row[0] for row in rows if row[2] == _TAG))
