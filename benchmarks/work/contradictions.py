"""Gold sets about contradiction, and how far scores put what says the same above what says the opposite."""

from __future__ import annotations

import csv
import hashlib
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

Pair = tuple[str, str]


@dataclass(frozen=True)
class Scored:
    """Pairs and what people say of them, 0 to 4."""

    pairs: list[Pair]
    gold: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Labelled:
    """Two sentences, and whether one contradicts the other."""

    a: str
    b: str
    contradicts: bool


def biosses(data: Path) -> Scored:
    """The 100 pairs as everybody has them, with the published means."""
    folder = data / "text" / "biosses"
    lines = (folder / "biosses_sentence_pairs_test_derived_from_github.txt").read_text(encoding="utf-8").splitlines()
    gold = (folder / "annotation_scores_from_github.txt").read_text(encoding="utf-8").split()
    return Scored(list(zip(lines[::2], lines[1::2], strict=True)), np.array([float(x) for x in gold]))


def ctr(data: Path) -> Scored:
    """171 pairs on the regulation of transcription, the mean of three annotators."""
    with (data / "text" / "sts_other" / "ctr_similarity_corpus.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    gold = [sum(float(row[name]) for name in "123") / 3 for row in rows]
    return Scored([(row["TxtA"], row["TxtB"]) for row in rows], np.array(gold))


def author_pairs(data: Path, subset: str) -> list[Pair]:
    """Sentences of BIOSSES and edits that contradict them, by Blagec et al. subset : ``negation`` or ``antonym``."""
    path = data / "text" / "biosses" / f"biosses_{subset}_subset.txt"
    lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    return list(zip(lines[::2], lines[1::2], strict=True))


def semantoneg(data: Path, *, held_out: bool) -> list[Labelled]:
    """Half of SemAntoNeg: the premises whose SHA-256 is odd are held out, the even ones are for development."""
    with (data / "text" / "contradiction" / "sem_anto_neg.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [
        Labelled(row["premise"], row["hypothesis"], row["label"] == "1")
        for row in rows
        if odd(row["premise"]) == held_out
    ]


def odd(text: str) -> bool:
    """Whether the SHA-256 of the text is an odd number."""
    return hashlib.sha256(text.encode()).digest()[-1] % 2 == 1


def corpus_lines(data: Path, name: str) -> Iterator[str]:
    """Sentences of a corpus, without its headings."""
    with lzma.open(data / "text" / "corpus" / f"{name}.txt.xz", "rt", encoding="utf-8") as file:
        for line in file:
            if line.strip() and not line.startswith("# "):
                yield line.strip()


def auc(above: Sequence[float] | npt.NDArray[np.float64], below: Sequence[float] | npt.NDArray[np.float64]) -> float:
    """How often one of ``above`` is higher than one of ``below``, half where they are equal."""
    ordered = np.sort(np.asarray(below, np.float64))
    values = np.asarray(above, np.float64)
    lower, not_higher = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return float((lower + not_higher).sum() / (2 * len(ordered) * len(values)))
