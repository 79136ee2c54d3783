"""Words that a corpus sets side by side: increased or decreased, reduced and delayed; counted, not kept."""

from __future__ import annotations

import lzma
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.core.progress import Say, ignore

_WORD = re.compile(r"[a-z]+")
_LINK = re.compile(
    r" ?(?:(?<= )(or|and|but not|rather than|and not|versus|vs|nor|to|instead of) (?:to |a |an |the )?|(\(|/) ?)"
    r"([a-z]{3,})(?!\w)(\))?"
)
"""What stands between two words, and the second of them."""
_SHORTEST = 3
_PAIRED = frozenset(("either", "both", "neither", "from", "between", "whether"))
_BEFORE_A_VERB = frozenset(("to", "can", "could", "may", "might", "must", "should", "will", "would", "not"))
"""What is before a verb's plain form: ``can increase or decrease``."""
PLAIN = "to "
"""What patterns begin with that stand behind one of these."""
_RESPECTIVELY, _AHEAD = ", respectively", 80
_LOOK_BACK = 20
LINES = 20_000
"""After so many lines, a word on how far it is."""


@dataclass
class Counted:
    """words : how often each word is there. beside : by (word, word), how often by which pattern
    (``or``, ``either or``, ``from to``; ``to or`` and its like where a verb's plain forms can stand; ``(`` where the
    second stands in brackets; ``/``; ``and respectively``)."""

    words: Counter[str] = field(default_factory=Counter)
    beside: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)


def count(corpora: Iterable[Path], say: Say = ignore) -> Counted:
    """Counts over files of a sentence a line (``.xz`` or plain); lines that begin with ``# `` are headings."""
    found = Counted()
    for path in corpora:
        for number, line in enumerate(_lines(path)):
            if number % LINES == 0:
                say(f"{path.name}, line {number}")
            if not line.startswith("# "):
                _count_line(line.lower().replace("and/or", "or"), found)
    return found


def _count_line(line: str, found: Counted) -> None:
    found.words.update(_WORD.findall(line))
    respectively = _RESPECTIVELY in line
    for match in _LINK.finditer(line):
        between = match[1] or match[2]
        start = line.rfind(" ", 0, match.start()) + 1
        word = line[start : match.start()]
        if len(word) < _SHORTEST or not (word.isascii() and word.isalpha()) or (between == "(" and not match[4]):
            continue  # a number, a bracket with more than one word in it
        pattern = f"{_before(line, start)}{between}"
        if pattern == "and" and respectively and line.find(_RESPECTIVELY, match.end(3), match.end(3) + _AHEAD) >= 0:
            pattern = "and respectively"
        found.beside.setdefault((word, match[3]), Counter())[pattern] += 1


def _before(line: str, start: int) -> str:
    """What of the words before tells how the two are meant: ``either ``, ``to ``, ``to either ``."""
    words = line[max(0, start - _LOOK_BACK) : start].split(" ")[:-1]
    kept = [words.pop()] if words and words[-1] in _PAIRED else []
    if words and words[-1] in _BEFORE_A_VERB:
        return PLAIN + "".join(f"{word} " for word in kept)
    return "".join(f"{word} " for word in kept)


def _lines(path: Path) -> Iterator[str]:
    opened = lzma.open if path.suffix == ".xz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            yield from file
    except FileNotFoundError as error:
        raise NotFoundError("no such file", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise BadInputError("is not UTF-8", where=str(path)) from error
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise BadInputError(f"cannot be read: {error}", where=str(path)) from error
