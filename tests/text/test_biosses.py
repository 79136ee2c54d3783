"""On the 100 pairs of BIOSSES: the figures of Blagec et al. 2019 (Table 1 and their scores of each pair), and those of
the stemmed pipeline."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest

from quiltwork.text import measure_named, pipeline_named, stop_list

pytestmark = pytest.mark.realdata


@dataclass(frozen=True)
class Pairs:
    """Sentences as they are and as the authors cut them, two a pair; what people say; scores of each pair by name."""

    sentences: list[str]
    cut: list[str]
    gold: np.ndarray
    authors: dict[str, np.ndarray]
    stemmed: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def pairs(data_dir):
    folder = data_dir / "text" / "biosses"

    def lines(name):
        return (folder / name).read_text(encoding="utf-8").splitlines()

    def columns(name, **wanted):
        with (folder / name).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return {ours: np.array([float(row[theirs]) for row in rows]) for ours, theirs in wanted.items()}

    return Pairs(
        lines("biosses_sentence_pairs_test_derived_from_github.txt"),
        lines("biosses_sentence_pairs_test_derived_from_github_preprocessed.txt"),
        np.array([float(line) for line in lines("annotation_scores_from_github.txt")]),
        columns("sentences-and-calculated-similarities.csv", jaccard="Jaccard", qgram="Qgram"),
        columns("prototype_scores.csv", jaccard="jaccard_stem", qgram="qgram_stem", liblock="liblock_stem"),
    )


def scores(pipeline, sentences, measure):
    tokens = [pipeline(sentence).tokens for sentence in sentences]
    return np.array([measure_named(measure)(a, b) for a, b in zip(tokens[::2], tokens[1::2], strict=True)])


def pearson(a, b):
    return float(np.corrcoef(a, b)[0, 1])


def test_every_sentence_is_cut_as_the_authors_cut_it(pairs):
    cut = pipeline_named("paper").tokenize
    assert [cut(sentence) for sentence in pairs.sentences] == [tuple(line.split()) for line in pairs.cut]
    assert sum(len(cut(sentence)) for sentence in pairs.sentences) == 5_696


@pytest.mark.parametrize("given", ["sentences", "cut"])
@pytest.mark.parametrize(("measure", "r"), [("jaccard", 0.751), ("qgram", 0.723)])
def test_paper_gives_the_authors_score_of_every_pair(pairs, given, measure, r):
    found = scores(pipeline_named("paper"), getattr(pairs, given), measure)
    assert found == pytest.approx(pairs.authors[measure], abs=1e-3)
    assert pearson(found, pairs.gold) == pytest.approx(r, abs=5e-4)


@pytest.mark.parametrize(
    ("stops", "measure", "r"),
    [
        ("ranks", "jaccard", 0.746),
        ("stanford", "jaccard", 0.767),
        ("ranks", "qgram", 0.720),
        ("stanford", "qgram", 0.727),
    ],
)
def test_other_stop_lists_give_what_the_authors_printed_with_them(pairs, stops, measure, r):
    pipeline = replace(pipeline_named("paper"), stops=stop_list(stops))
    assert pearson(scores(pipeline, pairs.sentences, measure), pairs.gold) == pytest.approx(r, abs=5e-4)


def test_liblock_on_the_authors_tokens(pairs):
    found = scores(pipeline_named("paper"), pairs.sentences, "liblock")
    assert pearson(found, pairs.gold) == pytest.approx(0.764, abs=5e-4)


@pytest.mark.parametrize(("measure", "r"), [("jaccard", 0.7936), ("qgram", 0.7838), ("liblock", 0.8162)])
def test_stemmed_is_nearer_to_what_people_say(pairs, measure, r):
    pytest.importorskip("nltk")
    found = pearson(scores(pipeline_named("stemmed"), pairs.sentences, measure), pairs.gold)
    assert found == pytest.approx(r, abs=2e-3)
    assert found > pearson(scores(pipeline_named("paper"), pairs.sentences, measure), pairs.gold)


@pytest.mark.parametrize(("measure", "r"), [("jaccard", 0.795), ("qgram", 0.784), ("liblock", 0.8175)])
def test_stemmed_without_greek_letters_gives_the_reference_score_of_every_pair(pairs, measure, r):
    """The reference deleted all letters that are not ASCII with the marks; the pipeline keeps them."""
    pytest.importorskip("nltk")
    ascii_only = [re.sub(r"[^\x00-\x7f]", "", sentence) for sentence in pairs.sentences]
    found = scores(pipeline_named("stemmed"), ascii_only, measure)
    assert found == pytest.approx(pairs.stemmed[measure], abs=1e-4)
    assert pearson(found, pairs.gold) == pytest.approx(r, abs=5e-4)


def test_no_denial_of_the_authors_contradictions_is_lost(data_dir):
    text = (data_dir / "text" / "biosses" / "biosses_negation_subset.txt").read_text(encoding="utf-8-sig")
    told = [pipeline_named("paper")(line).negators for line in text.splitlines()]
    assert len(told) == 26
    assert all(len(said) % 2 != len(denied) % 2 for said, denied in zip(told[::2], told[1::2], strict=True))
