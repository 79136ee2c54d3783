"""Cutting a sentence into tokens: as Stanford CoreNLP does, hyphens apart; or into words without any mark."""

from __future__ import annotations

import re
import unicodedata

_CUT = re.compile(
    r"""
      (?!cannot\b)[a-z]+(?=[\s,)\]]|$)                 # most words: what \w+ below would find, after all that is tried
    | \d+(?:[.,]\d+)+                                   # 1,000.5
    | (?<!\w)\.\d+                                      # .05
    | (?:[^\W\d_]\.){2,}                                # i.e.
    | (?<![\w-])[^\W\d_]\.(?:[^\W\d_]{2,}|(?=\s+\w))    # n.crassa, s. cerevisiae: a letter, and more to come
    | (?<![\w/-])[a-z\d]+(?:/[a-z\d]+)+(?![\w/-])       # tet1/2/3
    | (?<![\w/])[a-z\d]+(?:/[a-z][a-z\d]*)+             # swi/snf-like, but not cdk4/6-like; c/ebp of c/ebpα
    | can(?=not\b) | \w+(?=n't\b) | n't\b               # can not, do n't
    | '(?:s|re|ve|ll|d|m)\b
    | \w+
    | \.{3} | `` | ''
    | [^\w\s]
    """,
    re.VERBOSE,
)
TOKENS_VERSION = "corenlp 1"
"""Changes whenever ``corenlp_tokens`` cuts anything in another way: what was cut before is then cut anew."""
_QUOTE = re.compile(r'(?<![^\s(\[{-])"(?=\S)|“')
_MARKS = str.maketrans({"—": "--", "“": "``", "”": "''", '"': "''", "’": "'", "‘": "`"})
_MARK_KINDS = frozenset("PS")
"""Unicode's categories of punctuation and symbols, by their first letter."""


def corenlp_tokens(text: str) -> tuple[str, ...]:
    """Lower-case tokens as Stanford CoreNLP's tokeniser gives them: brackets as they are, every hyphen a token.

    Slash compounds, numbers and abbreviations stay whole; double quotes become ```` `` ```` and ``''``. Its own result,
    joined by blanks, is cut the same way again. CoreNLP's lexer has more rules: where a full stop belongs to a word
    that is not a single letter (``et al.``), it comes apart here.
    """
    opened = _QUOTE.sub("``", _printable(text).lower())
    return tuple(_CUT.findall(opened.translate(_MARKS)))


def bare_words(text: str) -> tuple[str, ...]:
    """Lower-case words in Unicode's compatibility form (NFKC), without punctuation and symbols, and what those
    stood between is one word: ``K-Ras`` is ``kras``, ``SWI/SNF`` is ``swisnf``, ``β-actin`` is ``βactin``.
    """
    plain = unicodedata.normalize("NFKC", _printable(text)).lower()
    return tuple("".join(c for c in plain if unicodedata.category(c)[0] not in _MARK_KINDS).split())


def _printable(text: str) -> str:
    """Without control characters, byte order marks and what else is never seen; blanks of all kinds stay."""
    if text.isprintable():
        return text
    return "".join(c for c in text if c.isspace() or unicodedata.category(c)[0] != "C")
