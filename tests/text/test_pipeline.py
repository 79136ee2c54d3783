"""What sentences go through before they are measured, and that no denial gets lost on the way."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.core.errors import BadInputError
from quiltwork.text.overlap import jaccard
from quiltwork.text.pipeline import DEFAULT, pipeline_named, snowball
from quiltwork.text.stops import stop_list

PAPER = pipeline_named("paper")
UNSTEMMED = replace(pipeline_named("stemmed"), stem=None)


def test_paper_drops_stop_words_and_eight_marks_and_keeps_brackets_and_quotes():
    found = PAPER('It is (as "shown") Kras-driven; is it? Yes! A: b/c, at 5 / 6.')
    assert found.tokens == ("(", "``", "shown", "''", ")", "kras", "driven", "yes", "b/c", "5", "6")


def test_stop_words_are_another_list_where_it_is_replaced():
    stanford = replace(PAPER, stops=stop_list("stanford"))
    assert stanford("It could (not) cut.").tokens == ("cut",)
    assert PAPER("It could (not) cut.").tokens == ("could", "(", ")", "cut")


def test_stemmed_deletes_marks_before_it_looks_for_stop_words():
    assert UNSTEMMED("The K-Ras (and -the-) SWI/SNF.").tokens == ("kras", "swisnf")


def test_stemmed_words_lose_their_endings():
    pytest.importorskip("nltk")
    found = pipeline_named("stemmed")("Mutations of K-Ras were inducing; it induces regulation.")
    assert found.tokens == ("mutat", "kras", "induc", "induc", "regul")


@pytest.mark.parametrize("word", ["kras", "βactin", "α", "5", "x"])
def test_what_is_no_english_word_has_itself_for_a_stem(word):
    pytest.importorskip("nltk")
    assert snowball(word) == word


@pytest.mark.parametrize("pipeline", [PAPER, UNSTEMMED])
@pytest.mark.parametrize(
    ("text", "negators"),
    [
        ("disease causing", ()),
        ("not disease causing", ("not",)),
        ("neither seen nor said, no", ("nor", "no")),
        ("Not seen, not said", ("not", "not")),
    ],
)
def test_denials_are_told_although_they_are_stop_words(pipeline, text, negators):
    assert pipeline(text).negators == negators
    assert not {"not", "no", "nor"} & set(pipeline(text).tokens)


@pytest.mark.parametrize("pipeline", [PAPER, UNSTEMMED])
def test_a_sentence_and_its_denial_differ_where_negators_are_kept(pipeline):
    said, denied = "disease causing", "not disease causing"
    keeping = replace(pipeline, keep_negators=True)
    assert keeping(denied).tokens == ("not", "disease", "causing")
    assert keeping(denied).negators == ("not",)
    assert jaccard(keeping(said).tokens, keeping(denied).tokens) == 2 / 3
    assert jaccard(pipeline(said).tokens, pipeline(denied).tokens) == 1.0


@pytest.mark.parametrize("pipeline", [PAPER, UNSTEMMED])
@pytest.mark.parametrize("denial", ["doesn't", "cannot", "isn't", "never"])
def test_denials_that_are_no_stop_words_are_among_the_tokens_or_told(pipeline, denial):
    said, denied = pipeline("It binds"), pipeline(f"It {denial} binds")
    assert said != denied


def test_the_default_is_stemmed_with_negators_kept_and_what_is_measured_as_stemmed_stays_so():
    assert pipeline_named(DEFAULT) == replace(pipeline_named("stemmed"), name="stemmed+negators", keep_negators=True)
    assert not pipeline_named("stemmed").keep_negators
    assert not PAPER.keep_negators


ANY_WORDS = st.lists(st.from_regex(r"[a-z]{1,9}", fullmatch=True) | st.sampled_from(["the", "is", "K-Ras", "β,"]))


@given(
    before=ANY_WORDS, after=ANY_WORDS, negator=st.sampled_from(sorted(stop_list("nltk").negators)), upper=st.booleans()
)
def test_no_negator_is_ever_lost_by_default(before, after, negator, upper):
    pytest.importorskip("nltk")
    prepare = pipeline_named(DEFAULT)
    said = " ".join([*before, *after])
    denied = " ".join([*before, negator.upper() if upper else negator, *after])
    assert sorted(prepare(denied).tokens) == sorted([*prepare(said).tokens, snowball(negator)])


def test_a_pipeline_that_is_not_there_is_refused_by_name():
    with pytest.raises(BadInputError, match=r"'papyrus' is not one of stemmed\+negators, stemmed, paper"):
        pipeline_named("papyrus")
