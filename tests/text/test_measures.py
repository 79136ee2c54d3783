"""What holds of every measure, and measures by name."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.core.errors import BadInputError, QuiltworkError
from quiltwork.text import MEASURES, TfIdf, measure_named, pipeline_named, similarity
from quiltwork.text.fuzzy import FUZZY

FITTED = TfIdf.fit([("kras", "α"), ("kras", "the"), ("ras",)])
no_rapidfuzz = pytest.mark.skipif(find_spec("rapidfuzz") is None, reason="RapidFuzz is not installed")
every_measure = pytest.mark.parametrize(
    "name", ["tfidf", *(pytest.param(n, marks=no_rapidfuzz if n in FUZZY else ()) for n in MEASURES)]
)
sentences = st.lists(st.sampled_from(["kras", "ras", "k", "α", "μ", "the", "5", "<", "\x07", "kras2"]), max_size=8)


def named(name):
    return FITTED if name == "tfidf" else measure_named(name)


@every_measure
@given(a=sentences)
def test_a_sentence_is_exactly_as_itself(name, a):
    assert named(name)(a, tuple(a)) == 1.0


@every_measure
@given(a=sentences, b=sentences)
def test_a_score_is_from_0_to_1_and_the_same_both_ways_and_again(name, a, b):
    score = named(name)(a, b)
    assert 0.0 <= score <= 1.0
    assert score == named(name)(b, a) == named(name)(a, b)


@every_measure
def test_with_an_empty_sentence_nothing_is_alike_but_another_empty_one(name):
    assert named(name)((), ()) == 1.0
    assert named(name)((), ("kras",)) == named(name)(("kras",), ()) == 0.0


@every_measure
def test_nothing_in_common_is_0(name):
    assert named(name)(("kras",), ("mol",)) == 0.0


@every_measure
def test_a_hundred_thousand_characters_are_measured(name):
    long = tuple(f"k{number:05}" for number in range(16_000))
    longer = (*long, "α" * 4_000)
    assert named(name)(long, list(long)) == 1.0
    assert 0.9 < named(name)(long, longer) <= 1.0


def test_scores_are_the_same_in_every_process():
    code = (
        "from quiltwork.text import MEASURES, TfIdf, measure_named\n"
        "from quiltwork.text.fuzzy import FUZZY\n"
        "a, b = 'abcdefghijkl', 'cdefghijklmnopq'\n"
        "tfidf = TfIdf.fit([a[:n] for n in range(12)] + [b[n:] for n in range(9)])\n"
        "print([tfidf(a, b), *(measure_named(n)(a, b) for n in MEASURES if n not in FUZZY)])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1


@given(text=st.text(max_size=60))
def test_a_text_is_exactly_as_itself_whatever_is_in_it(text):
    assert similarity(text, text, measure="qgram", pipeline="paper") == 1.0


def test_two_sentences_in_one_call():
    a, b = "Kras drives cancer.", "Cancer, it is Kras-driven."
    assert similarity(a, b, measure="jaccard", pipeline="paper") == 2 / 4
    assert similarity(a, b, measure=FITTED, pipeline="paper") == FITTED(
        ("kras", "drives", "cancer"), ("cancer", "kras", "driven")
    )


def test_a_pipeline_may_be_one_that_keeps_negators():
    keeping = replace(pipeline_named("paper"), keep_negators=True)
    said, denied = "disease causing", "not disease causing"
    assert similarity(said, denied, measure="jaccard", pipeline="paper") == 1.0
    assert similarity(said, denied, measure="jaccard", pipeline=keeping) == 2 / 3


def test_liblock_of_stems_and_negators_is_what_is_measured_unless_another_is_named():
    pytest.importorskip("nltk")
    assert similarity("K-Ras drives no cancers", "cancer, KRAS-driven") == similarity(
        "K-Ras drives no cancers", "cancer, KRAS-driven", measure="liblock", pipeline="stemmed+negators"
    )
    assert similarity("K-Ras mutations", "a KRAS mutation") == 1.0


def test_a_denial_is_not_the_same_as_what_it_denies_unless_a_pipeline_is_named_that_drops_it():
    pytest.importorskip("nltk")
    said, denied = "disease causing", "not disease causing"
    assert similarity(said, denied) < 1.0
    assert similarity(said, denied, pipeline="stemmed") == 1.0


@pytest.mark.parametrize("measure", ["jaccard", "qgram", "block", "liblock", "cosine", "soft", "lexical"])
@given(
    words=st.lists(st.sampled_from(["gene", "binds", "the", "mutations", "K-Ras", "no5"]), min_size=1),
    negator=st.sampled_from(["not", "no", "nor", "never", "cannot", "didn't", "isn’t", "NOT"]),
    at=st.integers(min_value=0, max_value=9),
)
def test_by_default_nothing_is_the_same_as_its_denial(measure, words, negator, at):
    pytest.importorskip("nltk")
    denied = [*words[:at], negator, *words[at:]]
    assert similarity(" ".join(words), " ".join(denied), measure=measure) < 1.0


def test_a_measure_that_is_not_there_is_refused_by_name():
    with pytest.raises(
        BadInputError, match="'manhattan' is not one of jaccard, qgram, block, liblock, cosine, soft, lexical"
    ):
        measure_named("manhattan")
    with pytest.raises(BadInputError, match=r"it is fitted on a collection: TfIdf\.fit"):
        measure_named("tfidf")


@pytest.mark.parametrize(
    ("ask", "package"),
    [
        (lambda: measure_named("token_set"), "rapidfuzz"),
        (lambda: similarity("binding", "binds", measure="jaccard"), "nltk"),
    ],
)
def test_who_lacks_a_package_is_told_which(monkeypatch, ask, package):
    from quiltwork.text.pipeline import _stemmer

    _stemmer.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(QuiltworkError, match=f"needs the package '{package}'"):
        ask()
