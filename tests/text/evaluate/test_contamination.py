"""Sentences of a gold set in a training text: found when they are there, and not when only words are."""

from __future__ import annotations

import lzma

import pytest

from quiltwork.core.errors import BadInputError
from quiltwork.text.evaluate.contamination import contamination
from quiltwork.text.evaluate.gold import read_biosses, read_ctr

GOLD = "The K-Ras gene is mutated in nearly all tumours of the pancreas, but in few of the breast."
WORDS = 19


def test_a_sentence_that_stands_in_the_text_is_found_whatever_its_marks_and_case():
    found = contamination([GOLD], ["", "something else", f"As is known, {GOLD.upper().replace('-', ' - ')} (1)"])
    (hit,) = found.hits
    assert (hit.share, hit.line) == (1.0, 3)
    assert found.above(0.5) == 1
    assert (found.sentences, found.short, found.lines) == (1, 0, 3)


def test_a_part_counts_by_its_runs():
    part = " ".join(GOLD.replace("-", " ").split()[:10])
    (hit,) = contamination([GOLD], [part]).hits
    assert hit.share == pytest.approx(3 / (WORDS - 7))
    assert contamination([GOLD], [part]).above(0.5) == 0


def test_the_same_words_in_another_order_are_no_run():
    shuffled = " ".join(sorted(GOLD.replace("-", " ").split()))
    assert contamination([GOLD], [shuffled]).hits == ()


def test_the_worst_line_is_told_and_every_sentence_has_its_own():
    other = "Nothing in this sentence of more than eight words is like the first one"
    found = contamination([GOLD, other, GOLD], [GOLD[:60], f"{GOLD} {other}"])
    assert [(hit.sentence, hit.line) for hit in found.hits] == [(GOLD, 2), (other, 2)]


def test_sentences_shorter_than_a_run_are_counted_and_not_looked_for():
    found = contamination(["a b c", ""], ["a b c"])
    assert (found.sentences, found.short, found.hits) == (0, 2, ())
    assert contamination(["a b c"], ["x a b c"], run=3).hits[0].share == 1.0


def test_a_run_of_no_words_is_refused():
    with pytest.raises(BadInputError, match="0 words are no run"):
        contamination(["a"], ["a"], run=0)


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_gold_sentence_has_more_than_half_of_its_runs_in_a_line_of_the_corpus(data_dir):
    def lines():
        for path in sorted((data_dir / "text" / "corpus").glob("*.txt.xz")):
            with lzma.open(path, "rt", encoding="utf-8") as file:
                yield from file

    sets = (read_biosses(data_dir / "text"), read_ctr(data_dir / "text"))
    found = contamination((sentence for gold in sets for pair in gold.pairs for sentence in pair), lines())
    assert found.lines > 900_000
    assert (found.sentences, found.short) == (492, 7)
    assert found.above(0.5) == 0, found.hits[:3]
