"""What is learned from, and what is only measured on: texts, texts with their classes, or pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from quiltwork.core.errors import BadInputError
from quiltwork.moe.models.build import CLASSIFY, LM
from quiltwork.moe.text_files import read_lines, read_text
from quiltwork.moe.training.labelled import read_labelled
from quiltwork.moe.training.settings import STRIP, WHERE, TrainingSettings

Row = tuple[str, str]
"""A text and its class, or a source and its target."""
Kind = TypeVar("Kind")

_BEGINS, _ENDS = ("*** START OF", "***START OF"), ("*** END OF", "***END OF")


@dataclass(frozen=True)
class Parts(Generic[Kind]):
    """The three parts of a corpus; no row is in two of them."""

    train: Kind
    valid: Kind
    test: Kind


@dataclass(frozen=True)
class Rows:
    """Rows, and how many were left out since one of their sides is blank."""

    rows: tuple[Row, ...]
    blank: int


def read_running_text(settings: TrainingSettings) -> Parts[str]:
    """Texts one after the other. What is not given by files is cut off the corpus's end: first the validation's part,
    then the test's. Raises as ``read_text``."""

    def read(paths: Sequence[str]) -> str:
        texts = [read_text(path, settings.encoding) for path in paths]
        return "\n".join(without_header(text) if settings.header == STRIP else text for text in texts)

    text = read(settings.corpus)
    tail = 0 if settings.test else round(len(text) * settings.test_share)
    middle = 0 if settings.valid else round(len(text) * settings.valid_share)
    first, second = len(text) - middle - tail, len(text) - tail
    valid = read(settings.valid) if settings.valid else text[first:second]
    return Parts(text[:first], valid, read(settings.test) if settings.test else text[second:])


def without_header(text: str) -> str:
    """A book of Project Gutenberg without what stands before and behind it; any other text as it is."""
    lines = text.split("\n")
    begins = next((at for at, line in enumerate(lines) if line.startswith(_BEGINS)), None)
    ends = next((at for at, line in enumerate(lines) if line.startswith(_ENDS)), None)
    if begins is None and ends is None:
        return text
    return "\n".join(lines[0 if begins is None else begins + 1 : ends]).strip("\n") + "\n"


def read_rows(settings: TrainingSettings) -> Parts[Rows]:
    """Texts with classes, or pairs. What is not given by files goes aside by a hash of the row, so that equal rows are
    never on two sides, and a row stays on its side whatever is added. Raises naming file and line."""
    read = _reader(settings)
    whole = read(settings.corpus)
    shares = (0.0 if settings.valid else settings.valid_share, 0.0 if settings.test else settings.test_share)
    drawn: tuple[list[Row], list[Row], list[Row]] = ([], [], [])
    for row in whole.rows:
        place = _drawn(row, settings.split_seed)
        drawn[1 if place < shares[0] else 2 if place < sum(shares) else 0].append(row)
    parts = Parts(
        Rows(tuple(drawn[0]), whole.blank),
        read(settings.valid) if settings.valid else Rows(tuple(drawn[1]), 0),
        read(settings.test) if settings.test else Rows(tuple(drawn[2]), 0),
    )
    for name, part in (("learn from", parts.train), ("validate on", parts.valid), ("test on", parts.test)):
        if not part.rows:
            what = f"{len(whole.rows)} rows leave none to {name}"
            raise BadInputError(what, where=f"{WHERE}: corpus", hint="more rows, or files of their own")
    return parts


def _reader(settings: TrainingSettings) -> Callable[[Sequence[str]], Rows]:
    assert settings.task != LM

    def read(paths: Sequence[str]) -> Rows:
        if settings.task == CLASSIFY:
            rows = read_labelled(paths, settings.encoding, settings.text_column, settings.label_column)
        else:
            rows = _pairs(paths[0], paths[1], settings.encoding)
        kept = tuple(row for row in rows if row[0].strip() and row[1].strip())
        if not kept:
            raise BadInputError("has no row that is not blank", where=", ".join(paths))
        return Rows(kept, len(rows) - len(kept))

    return read


def _pairs(source: str, target: str, encoding: str) -> list[Row]:
    sources, targets = read_lines(source, encoding), read_lines(target, encoding)
    if len(sources) != len(targets):
        what = f"has {len(targets):,} lines, and {source} has {len(sources):,}: each is to translate one of the other"
        raise BadInputError(what, where=target)
    return list(zip(sources, targets, strict=True))


def _drawn(row: Row, seed: int) -> float:
    """A number from 0 to 1 that hangs on the row and the seed alone."""
    told = hashlib.blake2b(f"{seed}\0{row[0]}\0{row[1]}".encode(errors="surrogatepass"), digest_size=8)
    return int.from_bytes(told.digest(), "big") / 2**64
