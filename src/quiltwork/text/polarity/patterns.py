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
_BESIDE = re.compile(
    r"(?=\b([a-z]{3,}) (or|and|but not|rather than|and not|versus|vs|nor|to|instead of) ([a-z]{3,})\b)"
)
_BEFORE = re.compile(r"\b(either|both|neither|from|between|whether) $")
_LOOK_BACK = 9
LINES = 20_000
"""After so many lines, a word on how far it is."""


@dataclass
class Counted:
    """words : how often each word is there. beside : by (word, word), how often by which pattern
    (``or``, ``either or``, ``from to``)."""

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
    for match in _BESIDE.finditer(line):
        before = _BEFORE.search(line, max(0, match.start() - _LOOK_BACK), match.start())
        pattern = f"{before[1]} {match[2]}" if before else match[2]
        found.beside.setdefault((match[1], match[3]), Counter())[pattern] += 1


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
