"""Corpora as documents of sentences: plain text with a sentence per line, running text, articles in JATS XML."""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, TextIO
from unicodedata import normalize

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.text.sentences import split_sentences

LONGEST_LINE = 100_000
"""Characters that no sentence has: a line with as many is running text, or no text at all."""
LONGEST_PARAGRAPH = 10_000_000
"""The same of a line of running text."""

_PACKED: dict[str, Callable[[Path], Any]] = {".xz": lzma.open, ".gz": gzip.open}
_TEXT, _XML = frozenset({".txt"}), frozenset({".xml", ".nxml"})


@dataclass(frozen=True)
class Document:
    """A text of its own: an article, an abstract, or a file that does not say where one ends."""

    name: str
    sentences: tuple[str, ...]
    """In Unicode's compatibility form (NFKC), none of them empty."""


def read_corpus(paths: Sequence[Path], *, split: bool = False) -> Iterator[Document]:
    """The documents of files, and of the files in folders by their path: ``.txt``, ``.xml`` and ``.nxml`` (JATS), each
    also as ``.xz`` or ``.gz``. Any other file that is named is read as text.

    split : text runs on over lines, paragraphs end with a blank line, and sentences are to be found. Else each line is
    a sentence. A line that begins with ``# `` begins a document and is its name.

    Raises NotFoundError, and BadInputError naming the file and the line: damaged or truncated files, what is not UTF-8,
    lines that no sentence has, XML that is no JATS article, a corpus without any sentence.
    """
    empty = True
    for path in corpus_files(paths):
        for document in _documents(path, split):
            empty = empty and not document.sentences
            if document.sentences:
                yield document
    if empty:
        raise BadInputError("has no sentence", where=", ".join(map(str, paths)) or "corpus")


def corpus_files(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The files that a corpus is made of, in the order in which they are read. Raises as ``read_corpus``."""
    return tuple(file for path in paths for file in _files(path))


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise NotFoundError("no such file or folder", where=str(path))
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if _kind(file) in _TEXT | _XML and file.is_file())
    if not found:
        raise BadInputError("has no .txt, .xml or .nxml file in it", where=str(path))
    return found


def _kind(path: Path) -> str:
    """The suffix, without that of a packed file."""
    return (path.with_suffix("") if path.suffix.lower() in _PACKED else path).suffix.lower()


def _documents(path: Path, split: bool) -> Iterator[Document]:
    if _kind(path) in _XML:
        from quiltwork.text.jats import article_sentences

        with _unpacked(path) as file, _told(path):
            content = file.read()
        yield Document(path.name, article_sentences(content, where=str(path)))
    elif split:
        yield from _running(path)
    else:
        yield from _line_by_line(path)


def _line_by_line(path: Path) -> Iterator[Document]:
    name, sentences = path.name, list[str]()
    for line in _lines(path, LONGEST_LINE, hint="running text is read with its sentences split"):
        if line.startswith("# "):
            yield Document(name, tuple(sentences))
            name, sentences = line[2:].strip(), []
        elif sentence := normalize("NFKC", line).strip():
            sentences.append(sentence)
    yield Document(name, tuple(sentences))


def _running(path: Path) -> Iterator[Document]:
    name, sentences, paragraph = path.name, list[str](), list[str]()

    def close() -> None:
        sentences.extend(split_sentences(normalize("NFKC", " ".join(paragraph))))
        paragraph.clear()

    for line in _lines(path, LONGEST_PARAGRAPH):
        if line.startswith("# "):
            close()
            yield Document(name, tuple(sentences))
            name, sentences = line[2:].strip(), []
        elif line.isspace() or not line:
            close()
        else:
            paragraph.append(line.strip())
    close()
    yield Document(name, tuple(sentences))


def _lines(path: Path, longest: int, hint: str | None = None) -> Iterator[str]:
    """Lines of a text file; never more of one than ``longest`` characters is in memory."""
    number = 0
    with _unpacked(path) as packed, _told(path, lambda: number + 1):
        file: TextIO = TextIOWrapper(packed, encoding="utf-8-sig")
        while line := file.readline(longest):
            number += 1
            if len(line) >= longest:
                what = f"has {longest} characters or more, which no sentence has"
                raise BadInputError(what, where=f"{path}: line {number}", hint=hint)
            yield line


def _unpacked(path: Path) -> BinaryIO:
    with _told(path):
        packed = _PACKED.get(path.suffix.lower())
        return path.open("rb") if packed is None else packed(path)


class _told:
    """Has what goes wrong with a file within told in one line."""

    def __init__(self, path: Path, line: Callable[[], int] | None = None) -> None:
        self._path, self._line = path, line

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        where = str(self._path) if self._line is None else f"{self._path}: line {self._line()}"
        if isinstance(error, UnicodeDecodeError):
            raise BadInputError("is not UTF-8", where=where) from error
        if isinstance(error, EOFError | lzma.LZMAError | gzip.BadGzipFile | zlib.error):
            raise BadInputError(f"is truncated or damaged: {error}", where=where) from error
        if isinstance(error, OSError):
            raise BadInputError(f"cannot be read: {error.strerror or error}", where=str(self._path)) from error
