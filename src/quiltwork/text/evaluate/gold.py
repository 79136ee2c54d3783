"""Pairs of sentences with what people say of how alike they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError
from quiltwork.text.columns import Columns, read_columns

Numbers = npt.NDArray[np.float64]

_BIOSSES_TEXT = "biosses_sentence_pairs_test_derived_from_github.txt"
_BIOSSES_GOLD = "annotation_scores_from_github.txt"
_BIOSSES_RATERS = "biosses_pairs.tsv"
_ANNOTATORS = ("annA", "annB", "annC", "annD", "annE")
_CTR = "ctr_similarity_corpus.csv"


@dataclass(frozen=True, eq=False)
class GoldSet:
    """What a model is held against.

    name : what tables call it. pairs : n pairs of sentences. gold : (n,) how alike they are, the more the larger.
    raters : (n, k) what each of k people said, where that is known. Raises BadInputError where shapes differ, a number
    is not finite, or there are fewer than three pairs.
    """

    name: str
    pairs: tuple[tuple[str, str], ...]
    gold: Numbers
    raters: Numbers | None = None

    def __post_init__(self) -> None:
        if len(self.pairs) < 3:
            raise BadInputError(f"has {len(self.pairs)} pairs, and a correlation needs three", where=self.name)
        if self.gold.shape != (len(self.pairs),) or not np.isfinite(self.gold).all():
            raise BadInputError(f"does not have a number for each of {len(self.pairs)} pairs", where=self.name)
        if self.raters is not None and (self.raters.ndim != 2 or len(self.raters) != len(self.pairs)):
            raise BadInputError(f"does not have raters for each of {len(self.pairs)} pairs", where=self.name)

    def __len__(self) -> int:
        return len(self.pairs)

    def one_annotators_error(self) -> float | None:
        """How far one rater is from the mean of the others, on average over raters and pairs; None without raters."""
        if self.raters is None or self.raters.shape[1] < 2:
            return None
        k = self.raters.shape[1]
        others = (self.raters.sum(axis=1, keepdims=True) - self.raters) / (k - 1)
        return float(np.abs(self.raters - others).mean())


def read_biosses(folder: Path) -> GoldSet:
    """BIOSSES, 100 pairs from 0 to 4 (Soğancıoğlu et al. 2017), in the version that most papers report on: the text
    files of its repository on GitHub, with the gold score 1.4 for pair 7 though its five annotators' mean is 1.6, and
    without the sentence openings (``Moreover,``) that the authors' document has besides.

    folder : holds the files, or a folder ``biosses`` that does; the raters are there if ``biosses_pairs.tsv`` is.
    """
    text, gold = _file(folder, "biosses", _BIOSSES_TEXT), _file(folder, "biosses", _BIOSSES_GOLD)
    lines, said = _lines(text), _lines(gold)
    if len(lines) != 2 * len(said):
        raise BadInputError(f"has {len(lines)} sentences for {len(said)} scores", where=str(text))
    rated = [_number(line, f"{gold}: line {at + 1}") for at, line in enumerate(said)]
    raters = text.with_name(_BIOSSES_RATERS)
    said_by = numbers(read_columns(raters, _ANNOTATORS), _ANNOTATORS) if raters.is_file() else None
    return GoldSet("BIOSSES", tuple(zip(lines[::2], lines[1::2], strict=True)), np.array(rated), said_by)


def read_ctr(folder: Path) -> GoldSet:
    """CTR, 171 pairs on the regulation of transcription in E. coli, from 0 to 4, each by three raters, whose mean is
    the gold score (Lithgow-Serrano et al. 2019).

    folder : holds ``ctr_similarity_corpus.csv``, or a folder ``sts_other`` that does.
    """
    sentences, raters = ("TxtA", "TxtB"), ("1", "2", "3")
    path = _file(folder, "sts_other", _CTR)
    return _of(read_columns(path, [*sentences, *raters]), "CTR", sentences, None, raters, path)


def read_pairs(
    path: Path,
    *,
    first: str = "sentence1",
    second: str = "sentence2",
    score: str | None = "score",
    raters: Sequence[str] = (),
) -> GoldSet:
    """A gold set of one's own: a CSV, TSV or Parquet file, by the names of its columns.

    score : the column of the gold score, or None where it is the mean of the ``raters``' columns. Raises BadInputError
    naming file, line and column.
    """
    if score is None and not raters:
        raise BadInputError("neither a column of scores nor columns of raters is named", where=str(path))
    names = [first, second, *([score] if score is not None else []), *raters]
    return _of(read_columns(path, names), path.name, [first, second], score, raters, path)


def _of(
    table: Columns, name: str, sentences: Sequence[str], score: str | None, raters: Sequence[str], path: Path
) -> GoldSet:
    said = numbers(table, raters) if raters else None
    gold = said.mean(axis=1) if score is None and said is not None else numbers(table, [str(score)])[:, 0]
    first, second = (table.texts[column] for column in sentences)
    try:
        return GoldSet(name, tuple(zip(first, second, strict=True)), gold, said)
    except BadInputError as error:
        raise BadInputError(error.what, where=str(path)) from error


def numbers(table: Columns, names: Sequence[str]) -> Numbers:
    """The named columns (n, k) of a table. Raises BadInputError naming the cell that is not a finite number."""
    return np.array(
        [[_number(text, f"{place}: {name}") for text, place in _cells(table, name)] for name in names], np.float64
    ).T


def _cells(table: Columns, name: str) -> list[tuple[str, str]]:
    return list(zip(table.texts[name], table.places, strict=True))


def _number(text: str, where: str) -> float:
    try:
        found = float(text)
    except ValueError as error:
        raise BadInputError(f"{text[:40]!r} is not a number", where=where) from error
    if not math.isfinite(found):
        raise BadInputError(f"{text[:40]!r} is not a finite number", where=where)
    return found


def _file(folder: Path, inner: str, name: str) -> Path:
    """The file in the folder, or in the one of its folders that it usually lies in."""
    found = next((path for path in (folder / name, folder / inner / name) if path.is_file()), None)
    if found is None:
        raise BadInputError(f"there is no {name}, nor {inner}/{name}", where=str(folder))
    return found


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInputError("is not UTF-8", where=str(path)) from error
    except OSError as error:
        raise BadInputError(f"cannot be read: {error.strerror}", where=str(path)) from error
    # Not splitlines: a sentence may hold one of the rarer breaks that it cuts at.
    return [line.rstrip("\r") for line in text.rstrip("\n").split("\n")]
