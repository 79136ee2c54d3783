"""sent2vec's loops against a plain transcription, and what a sentence's vector is the mean of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.core.errors import BadInputError
from quiltwork.text.scorer import Cosine
from quiltwork.text.sent2vec.learn import learn
from quiltwork.text.sent2vec.model import SentenceNgrams

WORDS = ("gene", "cell", "binds", "the", "p53", "not")
BUCKETS, D = 7, 5
MODEL = SentenceNgrams(WORDS, np.random.default_rng(2).normal(size=(len(WORDS) + BUCKETS, D)).astype(np.float32), 3)
sentences = st.lists(st.sampled_from([*WORDS, "unheard"]), max_size=20).map(" ".join)


class Bits:
    """splitmix64, written down from its description."""

    def __init__(self, state):
        self.state = state

    def __call__(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) % 2**64
        z = ((self.state ^ (self.state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        return z ^ (z >> 31)

    def below(self, bound):
        return (self() >> 33) % bound


def features(ids, longest, vocabulary, buckets, without=None, skipped=()):
    """Rows of the words and n-grams of a sentence, in no order."""
    rows = [word for i, word in enumerate(ids) if i != without]
    for i in range(len(ids)):
        for end in range(i + 2, min(len(ids), i + longest) + 1):
            span = range(i, end)
            if without not in span and not set(span) & set(skipped):
                code = 0
                for place in span:
                    code = (code * 116049371 + ids[place]) % 2**64
                rows.append(vocabulary + code % buckets)
    return rows


def transcribed(inputs, outputs, sentence_ids, bits, rate, kept, noise, longest, dropped, negatives):
    """Predict each word that is kept from the mean of the others, with words of noise as what it is not."""
    vocabulary, foretold = len(outputs), 0
    for ids in sentence_ids:
        if len(ids) < 2:
            continue
        for i, word in enumerate(ids):
            if (bits() >> 11) / 2**53 >= kept[word]:
                continue
            skipped = set()
            while len(skipped) < dropped and len(ids) - len(skipped) > 2:
                skipped.add(bits.below(len(ids)))
            rows = features(ids, longest, vocabulary, len(inputs) - vocabulary, i, skipped)
            mean, gradient = inputs[rows].mean(axis=0), np.zeros(inputs.shape[1])
            for turn in range(negatives + 1):
                target = noise[bits.below(len(noise))] if turn else word
                if turn and target == word:
                    continue
                gain = rate * ((turn == 0) - 1 / (1 + np.exp(-mean @ outputs[target])))
                gradient += gain * outputs[target]
                outputs[target] += gain * mean
            np.add.at(inputs, rows, gradient / len(rows))
            foretold += 1
    return foretold


@pytest.mark.parametrize(("longest", "dropped"), [(1, 0), (2, 0), (2, 3), (3, 1)])
def test_the_compiled_loop_is_the_transcription(longest, dropped):
    rng = np.random.default_rng(5)
    texts = [rng.integers(len(WORDS), size=size).tolist() for size in (6, 1, 0, 9, 2, 12)]
    inputs = rng.normal(size=(len(WORDS) + BUCKETS, D)).astype(np.float32)
    outputs = rng.normal(size=(len(WORDS), D)).astype(np.float32)
    kept, noise = np.array([0.3, 1.0, 0.6, 0.9, 1.0, 0.5]), np.array([0, 0, 1, 2, 3, 4, 5, 3], np.int32)
    wanted_inputs, wanted_outputs = inputs.astype(float), outputs.astype(float)
    wanted = transcribed(wanted_inputs, wanted_outputs, texts, Bits(42), 0.2, kept, noise, longest, dropped, 4)
    ends = np.concatenate([[0], np.cumsum([len(ids) for ids in texts])]).astype(np.int64)
    state, words = np.array([42], np.uint64), np.concatenate(texts).astype(np.int32)
    loss, foretold = learn(inputs, outputs, words, ends, state, 0.2, kept, noise, longest, dropped, 4)
    assert foretold == wanted > 0
    assert np.isfinite(loss)
    np.testing.assert_allclose(inputs, wanted_inputs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs, wanted_outputs, rtol=1e-4, atol=1e-5)


@given(sentence=sentences)
@settings(max_examples=50)
def test_a_vector_is_the_mean_of_words_and_ngrams(sentence):
    made = MODEL.embed([sentence])
    ids = [WORDS.index(word) for word in sentence.split() if word in WORDS]
    assert made.used[0] == len(ids)
    assert made.known[0] == bool(ids)
    wanted = MODEL.inputs[features(ids, 3, len(WORDS), BUCKETS)].mean(axis=0) if ids else np.zeros(D)
    np.testing.assert_allclose(made.vectors[0], wanted, rtol=1e-4, atol=1e-5)


@given(a=sentences, b=sentences)
@settings(max_examples=50)
def test_a_sentence_is_like_itself_and_both_ways_round_are_the_same(a, b):
    own, there, back = Cosine(MODEL)([(a, a), (a, b), (b, a)])
    assert own == 1.0 if any(word in WORDS for word in a.split()) else np.isnan(own)
    np.testing.assert_equal(there, back)


def test_not_changes_what_a_sentence_is():
    assert Cosine(MODEL)([("p53 binds the gene", "p53 not binds the gene")])[0] < 1.0


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"words": ()}, "there must be words"),
        ({"words": ("gene", "gene")}, "each of them once"),
        ({"inputs": np.zeros((6, 5), np.float32)}, "need more inputs"),
        ({"inputs": np.zeros((9, 5))}, "float32"),
        ({"inputs": np.full((9, 5), np.inf, np.float32)}, "finite"),
        ({"longest": 0}, "1 to 10 words"),
    ],
)
def test_parts_that_do_not_fit_are_refused(fields, told):
    with pytest.raises(BadInputError, match=told):
        SentenceNgrams(**{"words": WORDS, "inputs": MODEL.inputs, "longest": 2, **fields})
