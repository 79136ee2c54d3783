"""Antonyms by how English forms words: two words that differ by a prefix or suffix that turns a meaning around."""

from __future__ import annotations

DENYING = ("un", "non")
"""Before nearly any word, they deny it. Others (``in-``, ``dis-``, ``de-``, ``a-``) are too often part of a word that
denies nothing (display, depend): those stand in the lexicon, one by one."""
CHECKED = ("in", "im", "il", "ir", "dis", "de", "mis", "ab", "a", "mal", "dys", "anti", "counter")
"""Prefixes that deny where the recipe of the lexicon finds a reason to think so."""
OPPOSED = (("hyper", "hypo"), ("up", "down"), ("pro", "anti"), ("over", "under"))
SUFFIXES = (("ful", "less"),)
JOINED = frozenset(
    (*DENYING, *(p for p in CHECKED if p not in ("a", "counter")), *(p for pair in OPPOSED for p in pair))
)
"""Prefixes that are one word with what follows their hyphen."""
SHORTEST = 4
"""Letters that have to be left."""


def formed_opposite(a: str, b: str) -> str | None:
    """The rule by which one of two lower-case words denies the other, or None: ``un-``, ``hyper-/hypo-``."""
    shorter, longer = sorted((a, b), key=len)
    for prefix in DENYING:
        if longer == prefix + shorter and len(shorter) >= SHORTEST:
            return f"{prefix}-"
    for one, other in OPPOSED:
        if swapped(a, b, one, other) or swapped(b, a, one, other):
            return f"{one}-/{other}-"
    for one, other in SUFFIXES:
        for x, y in ((a, b), (b, a)):
            if len(x) >= SHORTEST + len(one) and x.endswith(one) and y == x[: -len(one)] + other:
                return f"-{one}/-{other}"
    return None


def swapped(a: str, b: str, one: str, other: str) -> bool:
    """Whether ``a`` is ``one`` before a rest of some length and ``b`` is ``other`` before the same rest."""
    rest = a[len(one) :]
    return a.startswith(one) and len(rest) >= SHORTEST and b == other + rest
