"""Tokens that a sentence's vector is not of."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from quiltwork.text.stops import stop_list


@cache
def drops(stops: str | None, marks: bool) -> Callable[[str], bool]:
    """Says of a token whether it is left out. stops : the name of a stop list; its words that deny stay, or a sentence
    and its denial would be one. marks : whether tokens without any letter or digit are left out.

    Raises BadInputError where there is no such list.
    """
    words = frozenset[str]()
    if stops is not None:
        found = stop_list(stops)
        words = found.words - found.negators
    return lambda token: token in words or (marks and not any(c.isalnum() for c in token))
