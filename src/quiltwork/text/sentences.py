"""Where a sentence of running text ends."""

from __future__ import annotations

import re

_END = re.compile(r"[.!?][\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z0-9Α-Ω])")
"""A mark that ends a sentence, what closes after it, blanks, and then what may begin one."""
_ABBREVIATED = re.compile(
    r"(?:^|[\s(\[])(?:[A-Za-z]|e\.g|i\.e|et al|cf|vs|viz|ca|approx|resp|no|nos|fig|figs|eq|eqs|ref|refs|sec|tab"
    r"|dr|prof|mr|mrs|ms|st|sp|spp|subsp|var|vol|pp|inc|ltd|co|corp|dept|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\.$",
    re.IGNORECASE,
)
_LOOK_BACK = 16
"""Characters before a full stop that can make it an abbreviation's."""


def split_sentences(text: str) -> tuple[str, ...]:
    """Sentences of running text, none of them empty, blanks made one.

    A full stop ends one where a capital letter or a digit follows, unless a known abbreviation or a single letter
    stands before it: ``E. coli``, ``Smith et al. (2019)`` and ``Fig. 3`` stay whole. So does, wrongly, a sentence that
    ends in a single letter (``vitamin C. The``).
    """
    plain = " ".join(text.split())
    found, begin = [], 0
    for end in _END.finditer(plain):
        stop = end.start() + 1
        if not _ABBREVIATED.search(plain[max(begin, stop - _LOOK_BACK) : stop]):
            found.append(plain[begin : end.end()].strip())
            begin = end.end()
    found.append(plain[begin:].strip())
    return tuple(sentence for sentence in found if sentence)
