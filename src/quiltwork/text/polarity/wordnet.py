"""Reading WordNet's own files (``data.*``, ``index.*``, ``*.exc``), as Debian's package ``wordnet-base`` has them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quiltwork.core.errors import BadInputError, NotFoundError

PARTS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
_ENDINGS = {
    "n": (("s", ""), ("ses", "s"), ("xes", "x"), ("ches", "ch"), ("shes", "sh"), ("ies", "y")),
    "v": (("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    "a": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "r": (),
}  # fmt: skip
"""WordNet's rules of detachment (morphy(7WN))."""


@dataclass(frozen=True)
class Pointer:
    """What a synset points to. source, target : which word of either synset, from 1; 0 where it is all of them."""

    symbol: str
    synset: tuple[str, int]
    source: int
    target: int


@dataclass(frozen=True)
class Synset:
    """Words of one meaning, as WordNet writes them, in lower case; what they point to; what they mean. frames : of
    verbs, by number, the frames of all its words (8: somebody does something, 11: something does something)."""

    words: tuple[str, ...]
    pointers: tuple[Pointer, ...]
    gloss: str
    frames: frozenset[int] = frozenset()


class WordNet:
    """A folder of WordNet's files in memory. Keys of synsets are (part of speech, offset); ``s`` is read as ``a``."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.synsets: dict[tuple[str, int], Synset] = {}
        self.senses: dict[tuple[str, str], list[tuple[str, int]]] = {}
        """By (part, word), its synsets, the most frequent first."""
        self.irregular: dict[tuple[str, str], list[str]] = {}
        """By (part, form), the words that it is a form of."""
        for name, part in PARTS.items():
            for where, line in _lines(Path(folder) / f"data.{name}"):
                self._read_synset(part, where, line)
            for where, line in _lines(Path(folder) / f"index.{name}"):
                self._read_senses(part, where, line)
            for _, line in _lines(Path(folder) / f"{name}.exc"):
                form, *words = line.split()
                self.irregular[part, form] = words

    def pointers(self, symbol: str) -> Iterator[tuple[tuple[str, int], Pointer]]:
        """All pointers of one kind with the synset they start from: ``!`` antonym, ``&`` similar, ``+`` derived,
        ``\\`` of adjective, ``@`` hypernym, ``^`` see also, ``$`` verb group."""
        for key, synset in self.synsets.items():
            for pointer in synset.pointers:
                if pointer.symbol == symbol:
                    yield key, pointer

    def words(self, key: tuple[str, int], at: int) -> tuple[str, ...]:
        """Word ``at`` of a synset, counted from 1, or all of them for 0."""
        return self.synsets[key].words if at == 0 else (self.synsets[key].words[at - 1],)

    def lemma(self, form: str, part: str) -> str | None:
        """The word that this is a form of, the first by WordNet's rules; None where WordNet has none."""
        for word in self.irregular.get((part, form), ()):
            if (part, word) in self.senses:
                return word
        if (part, form) in self.senses:
            return form
        for ending, instead in _ENDINGS[part]:
            word = form[: len(form) - len(ending)] + instead
            if form.endswith(ending) and (part, word) in self.senses:
                return word
        return None

    def _read_synset(self, part: str, where: str, line: str) -> None:
        try:
            facts, _, gloss = line.partition("|")
            fields = facts.split()
            count = int(fields[3], 16)
            words = tuple(_plain(word) for word in fields[4 : 4 + 2 * count : 2])
            at = 4 + 2 * count
            pointers = []
            for i in range(at + 1, at + 1 + 4 * int(fields[at]), 4):
                symbol, offset, kind, ends = fields[i : i + 4]
                pointers.append(Pointer(symbol, (_part(kind), int(offset)), int(ends[:2], 16), int(ends[2:], 16)))
            frames = frozenset(map(int, fields[at + 3 + 4 * len(pointers) :: 3])) if part == "v" else frozenset()
            self.synsets[part, int(fields[0])] = Synset(words, tuple(pointers), gloss.strip(), frames)
        except (ValueError, IndexError) as error:
            raise BadInputError("is not a line of WordNet's data", where=where) from error

    def _read_senses(self, part: str, where: str, line: str) -> None:
        fields = line.split()
        try:
            self.senses[part, _plain(fields[0])] = [(part, int(offset)) for offset in fields[-int(fields[2]) :]]
        except (ValueError, IndexError) as error:
            raise BadInputError("is not a line of WordNet's index", where=where) from error


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFoundError(
            "no such file", where=str(path), hint="Debian's wordnet-base has WordNet's files"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError("cannot be read as text", where=str(path)) from error
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("  "):  # lines of the licence begin with blanks
            yield f"{path}:{number}", line


def _plain(word: str) -> str:
    return word.partition("(")[0].lower()  # the marker of an adjective's place: galore(ip)


def _part(kind: str) -> str:
    return "a" if kind == "s" else kind
