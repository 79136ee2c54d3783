"""Words that say opposite things, each with where that comes from; and reading them from a file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.text.pipeline import snowball
from quiltwork.text.polarity.morphology import formed_opposite

MORE, LESS = "+", "-"
SOURCES = (
    "wordnet:antonym",
    "wordnet:synonym",
    "wordnet:derived",
    "wordnet:similar",
    "wordnet:form",
    "prefix",
    "graph",
)


@dataclass(frozen=True)
class Entry:
    """A line of a lexicon.

    kind : ``pair`` (two opposite words), ``sign`` (a word, and whether it says ``+`` more or ``-`` less of something)
    or ``form`` (an irregular form, and the word it is of). source : one of SOURCES. evidence : which pointer, which
    prefix with the counts of both words, or which patterns how often.
    """

    kind: str
    a: str
    b: str
    source: str
    evidence: str

    @property
    def why(self) -> str:
        return f"{self.source} {self.evidence}".strip()


class Lexicon:
    """Which words are opposite. Words count by their stems; a pair counts both ways round."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = tuple(entries)
        self._lemmas = {entry.a: snowball(entry.b) for entry in self.entries if entry.kind == "form"}
        self._pairs: dict[str, dict[str, Entry]] = {}
        self._signs: dict[str, Entry] = {}
        for entry in self.entries:
            if entry.kind == "pair":
                a, b = snowball(entry.a), snowball(entry.b)
                if a != b:
                    self._pairs.setdefault(a, {}).setdefault(b, entry)
                    self._pairs.setdefault(b, {}).setdefault(a, entry)
            elif entry.kind == "sign":
                self._signs.setdefault(snowball(entry.a), entry)

    def stem(self, word: str, stem: str) -> str:
        """The stem that entries are kept by: of the word that this is an irregular form of, if it is one."""
        return self._lemmas.get(word, stem)

    def knows(self, stem: str) -> bool:
        """Whether any line is about words of this stem."""
        return stem in self._pairs or stem in self._signs

    def opposites(self, stem: str) -> Mapping[str, Entry]:
        """Stems of the words that are opposite by a pair."""
        return self._pairs.get(stem, {})

    def has_pair(self, a: str, b: str) -> bool:
        """Whether anything sets these two words against one another as a pair: a line, a rule of word formation, or an
        edge between them in the graph that their signs come from."""
        x, y = snowball(a), snowball(b)
        if y in self._pairs.get(x, {}) or formed_opposite(a, b):
            return True
        return any(
            snowball(near.partition(":")[0]) == other
            for stem, other in ((x, y), (y, x))
            if stem in self._signs
            for near in self._signs[stem].evidence.split()[1:]
        )

    def sign(self, stem: str) -> str | None:
        """``+``, ``-`` or None."""
        return self._signs[stem].b if stem in self._signs else None

    def why_opposite(self, a: tuple[str, str], b: tuple[str, str]) -> str | None:
        """Where it comes from that two words, each with its stem, are opposite; None where they are not."""
        pair = self._pairs.get(a[1], {}).get(b[1])
        if pair:
            return pair.why
        rule = formed_opposite(a[0], b[0])
        if rule:
            return f"prefix {rule}"
        one, other = self._signs.get(a[1]), self._signs.get(b[1])
        if one and other and one.b != other.b:
            return f"signs {one.a} {one.b} ({one.why}), {other.a} {other.b} ({other.why})"
        return None


def read_lexicon(path: str | os.PathLike[str]) -> Lexicon:
    """A lexicon from a file. Raises NotFoundError, and BadInputError for one that is none, with the line."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFoundError("no such file", where=str(path)) from error
    except OSError as error:
        raise BadInputError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise BadInputError("is not UTF-8", where=str(path)) from error
    return Lexicon(parse(text, str(path)))


@cache
def shipped_lexicon() -> Lexicon:
    """The one that comes with the package."""
    name = "lexicon.tsv"
    return Lexicon(parse(files(__package__).joinpath(name).read_text(encoding="utf-8"), name))


def parse(text: str, where: str) -> list[Entry]:
    """Lines ``kind a b source evidence`` with tabs between; lines that begin with ``#`` are remarks."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        entry = Entry(*fields) if len(fields := line.split("\t")) == 5 else None
        if entry is None or not _makes_sense(entry):
            raise BadInputError(
                "is not a line of a lexicon", where=f"{where}:{number}",
                hint="kind, word, word or sign, source and evidence, with tabs between",
            )  # fmt: skip
        found.append(entry)
    return found


def printed(entries: Iterable[Entry]) -> str:
    """Lines as ``parse`` reads them, sorted."""
    rows = sorted({(entry.kind, entry.a, entry.b, entry.source, entry.evidence) for entry in entries})
    return "".join("\t".join(row) + "\n" for row in rows)


def _makes_sense(entry: Entry) -> bool:
    b_is_right = entry.b in (MORE, LESS) if entry.kind == "sign" else bool(entry.b)
    return entry.kind in ("pair", "sign", "form") and bool(entry.a) and b_is_right and entry.source in SOURCES
