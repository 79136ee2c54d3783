"""A sentence's vector is its words' as the pooling defines it, and hangs on nothing but the sentence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.core.errors import BadInputError
from quiltwork.text.embedder import cosines
from quiltwork.text.files import Folder
from quiltwork.text.scorer import Cosine
from quiltwork.text.vectors.model import Common, WordVectors
from quiltwork.text.vectors.pooling import POOLINGS, PooledVectors, Pooling, load_word_embedder, pooling_named
from quiltwork.text.vectors.training_text import Vocabulary

WORDS = ("the", "not", "gene", "cell", ",")
ROWS = np.array([[1, 1], [2, 0], [0, 4], [-3, 1], [1, 0]], np.float32)
COUNTS, HAVING = [60, 10, 5, 2, 23], [50, 10, 5, 2, 20]


@pytest.fixture
def vectors():
    """Five words in the plane; the mean of all is (1, 1), and (0, 1) is what they have in common."""
    vocabulary = Vocabulary(WORDS, np.array(COUNTS), np.array(HAVING), sentences=99, tokens=100)
    common = Common(np.array([1, 1], np.float32), np.array([[0, 1], [1, 0]], np.float32))
    return WordVectors(vocabulary, ROWS, common={"words": common, "sif": common})


def pooled(vectors, sentence, pooling):
    [row] = PooledVectors("p", vectors, pooling).embed([sentence]).vectors
    return row.tolist()


def test_mean_sum_max_and_min_are_over_all_tokens(vectors):
    sentence = "The gene , the cell"
    assert pooled(vectors, sentence, POOLINGS["avg"]) == pytest.approx([0, 1.4])
    assert pooled(vectors, sentence, POOLINGS["sum"]) == pytest.approx([0, 7])
    assert pooled(vectors, sentence, POOLINGS["max"]) == [1, 4]
    assert pooled(vectors, sentence, POOLINGS["min"]) == [-3, 0]


def test_rare_words_weigh_more_by_the_counts_of_the_training_corpus(vectors):
    gene, cell = np.log(100 / 6), np.log(100 / 3)
    assert pooled(vectors, "gene cell", POOLINGS["idf"]) == pytest.approx(
        ((gene * ROWS[2] + cell * ROWS[3]) / (gene + cell)).tolist()
    )
    gene, cell = 1e-3 / (1e-3 + 0.05), 1e-3 / (1e-3 + 0.02)
    assert pooled(vectors, "gene cell", POOLINGS["sif"]) == pytest.approx(
        ((gene * ROWS[2] + cell * ROWS[3]) / (gene + cell)).tolist(), rel=1e-5
    )


def test_what_is_common_is_taken_out(vectors):
    assert pooled(vectors, "gene", Pooling(common="words", removed=0)) == [-1, 3]
    assert pooled(vectors, "gene", Pooling(common="words", removed=1)) == [-1, 0]


def test_stop_words_and_marks_are_dropped_but_a_word_that_denies_never(vectors):
    embedder = PooledVectors("p", vectors, Pooling(stops="nltk", marks=True))
    found = embedder.embed(["the gene ,", "not the gene", "gene"])
    assert found.vectors[0].tolist() == found.vectors[2].tolist() == [0, 4]
    assert found.vectors[1].tolist() == [1, 2]
    assert (found.tokens.tolist(), found.used.tolist()) == ([3, 3, 1], [1, 2, 1])


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("sentence", ["", "   ", "unheard", "unheard of things", "\x00\x07"])
def test_of_what_it_has_no_word_of_it_says_that_it_knows_nothing(vectors, name, sentence):
    found = PooledVectors(name, vectors, POOLINGS[name]).embed([sentence, "gene cell not"])
    assert found.known.tolist()[0] is np.False_ or not found.known[0]
    assert not found.vectors[0].any()
    assert found.used[0] == 0
    assert np.isnan(cosines(found, found)[0])


@pytest.fixture(scope="module")
def trained(small_corpus, tmp_path_factory):
    from quiltwork.core.trainable import Setup
    from quiltwork.text.vectors.training import text_vectors

    out = tmp_path_factory.mktemp("trained") / "model"
    made = text_vectors()
    config = {"corpus": str(small_corpus), "out": str(out), "dimensions": 12, "min_count": 1, "buckets": 500}
    made.setup(Setup(config, 0))
    while not made.step().finished:
        pass
    return out


SENTENCES = st.lists(
    st.sampled_from(["kinase", "placebo", "not", "the", "K-Ras", "β-actin", "5 µg", "patients", "(", "zzz", "\u200b"]),
    max_size=8,
).map(" ".join)


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(sorted(POOLINGS)), pairs=st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=5))
def test_scores_are_symmetric_and_the_same_alone_as_among_others(trained, name, pairs):
    scorer = Cosine(load_word_embedder(Folder(trained), name))
    scores = scorer(pairs)
    assert np.array_equal(scorer([(b, a) for a, b in pairs]), scores, equal_nan=True)
    alone = np.concatenate([scorer([pair]) for pair in pairs])
    assert np.array_equal(alone, scores, equal_nan=True)
    assert np.array_equal(scorer(pairs[::-1])[::-1], scores, equal_nan=True)


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(sorted(POOLINGS)), sentence=SENTENCES)
def test_a_sentence_and_itself_score_exactly_one_where_it_is_known(trained, name, sentence):
    embedder = load_word_embedder(Folder(trained), name)
    known = embedder.embed([sentence]).known[0]
    [score] = Cosine(embedder)([(sentence, sentence)])
    assert score == 1.0 if known else np.isnan(score)


@pytest.mark.parametrize("name", POOLINGS)
def test_a_sentence_and_its_denial_differ(trained, name):
    [score] = Cosine(load_word_embedder(Folder(trained), name))([("kinase outcome", "not kinase outcome")])
    assert score < 1


def test_very_long_sentences_are_pooled_whole(trained):
    embedder = load_word_embedder(Folder(trained), "avg")
    found = embedder.embed(["kinase " * 20_000, "x" * 100_000, "kinase"])
    assert found.known.tolist() == [True, False, True]
    assert found.used.tolist() == [20_000, 0, 1]
    assert not found.truncated.any()
    assert np.allclose(found.vectors[0], found.vectors[2])


def test_what_is_taken_out_is_of_the_training_corpus_whatever_is_asked_about(trained):
    embedder = load_word_embedder(Folder(trained), "abtt")
    first = embedder.embed(["kinase activates receptor"]).vectors
    embedder.embed(["placebo trial patients"] * 200)
    assert np.array_equal(embedder.embed(["kinase activates receptor"]).vectors, first)
    assert np.array_equal(
        load_word_embedder(Folder(trained), "abtt").embed(["kinase activates receptor"]).vectors, first
    )


def test_directions_in_common_are_those_of_the_corpus(trained):
    vectors = WordVectors.load(Folder(trained))
    rows = vectors.vectors.astype(np.float64)
    common = vectors.common["words"]
    assert np.allclose(common.mean, rows.mean(axis=0), atol=1e-6)
    _, _, expected = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    assert np.allclose(np.abs((common.directions[:3] * expected[:3]).sum(axis=1)), 1, atol=1e-4)
    assert np.allclose(common.directions @ common.directions.T, np.eye(10), atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [{"combine": "median"}, {"weight": "bm25"}, {"stops": "none"}, {"combine": "max", "common": "words"},
     {"removed": 1}, {"removed": -1, "common": "words"}],
)  # fmt: skip
def test_a_pooling_that_cannot_be_is_refused(wrong):
    with pytest.raises(BadInputError):
        Pooling(**wrong)


def test_an_unknown_name_and_what_the_model_does_not_keep_are_told(vectors):
    with pytest.raises(BadInputError, match="avg, sum, max"):
        pooling_named("median")
    with pytest.raises(BadInputError, match="does not keep 3 directions common to words"):
        PooledVectors("p", vectors, Pooling(common="words", removed=3))
