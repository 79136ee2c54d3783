"""Vectors of paragraphs: the loops against the formulas, and what must hold of any of them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_huffman import WORDS, tiny_huffman

from quiltwork.core.errors import BadInputError
from quiltwork.text.paragraph.embedder import ParagraphVectors
from quiltwork.text.paragraph.huffman import UNKNOWN
from quiltwork.text.paragraph.inference import Inference, expected_weights, infer, seeds_of, text_hash, texts
from quiltwork.text.scorer import Cosine
from quiltwork.text.token_corpus import word_tokens

MODEL = tiny_huffman()
WAYS = [
    Inference(predicts, how) for predicts, how in product(("sg", "cbow"), ("sampled", "full", "weighted", "closed"))
]
"""Every way there is."""
words = st.lists(st.sampled_from([*WORDS, "unheard", "qqq"]), max_size=25).map(" ".join)
every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way.how}-{way.predicts}")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def path(word):
    steps = slice(MODEL.starts[word], MODEL.starts[word + 1])
    return MODEL.nodes[MODEL.points[steps]].astype(float), MODEL.codes[steps]


def learnt(hidden, word, alpha):
    """alpha * sum_k (1 - c_k - sigmoid(h . n_k)) n_k, all k at the same h."""
    nodes, codes = path(word)
    return alpha * sum((1 - c - sigmoid(hidden @ n)) * n for n, c in zip(nodes, codes, strict=True))


def walked(ids, way, begin, shrink):
    """The walk, written down from its description."""
    v = np.array(begin, float)
    weight = expected_weights(way.window) if way.how == "weighted" else np.ones(way.window + 1)
    for turn in range(way.passes):
        for i, word in enumerate(ids):
            if word == UNKNOWN:
                continue
            reach = way.window - shrink[turn][i]
            around = [j for j in range(i - reach, i + reach + 1) if 0 <= j < len(ids) and ids[j] != UNKNOWN]
            if way.predicts == "sg":
                for j in around:
                    v = v + learnt(v, ids[j], way.alpha * weight[abs(i - j)])
            else:
                beside = sum(weight[abs(i - j)] * MODEL.inputs[ids[j]].astype(float) for j in around if j != i)
                v = v + learnt(v + beside, word, way.alpha)
    return v


def drawn(seed, count):
    """splitmix64."""
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) % 2**64
        z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        yield z ^ (z >> 31)


@every_way
@pytest.mark.parametrize("passes", [1, 3])
def test_the_compiled_loops_are_the_formulas(way, passes):
    way = replace(way, passes=passes, alpha=0.2, window=3, seed=7)
    tokens = word_tokens("the p53 unheard mutation of gene in tumour cell not binds the kinase qqq .")
    found = texts(MODEL, [tokens])
    ids, d = found.words.tolist(), MODEL.dimensions
    begin, shrink = np.zeros(d), [[0] * len(ids)] * passes
    if way.how == "sampled":
        bits = list(drawn(int(seeds_of(found, 7)[0]), d + passes * len(ids)))
        begin = [((b >> 11) / 2**53 - 0.5) / d for b in bits[:d]]
        sizes = [(b >> 33) % way.window for b in bits[d:]]
        shrink = [sizes[turn * len(ids) :][: len(ids)] for turn in range(passes)]
    if way.how == "closed":
        wanted = np.zeros(d)
        for j, word in enumerate(ids):
            if word != UNKNOWN:
                near = [abs(i - j) for i, other in enumerate(ids) if other != UNKNOWN and abs(i - j) <= way.window]
                count = sum(expected_weights(way.window)[near]) if way.predicts == "sg" else 1
                wanted += count * passes * learnt(np.zeros(d), word, way.alpha)
    else:
        wanted = walked(ids, way, begin, shrink)
    np.testing.assert_allclose(infer(MODEL, found, way)[0], wanted, rtol=2e-4, atol=2e-5)


def test_a_drawn_window_reaches_as_far_as_expected_weights_say():
    window = 5
    reached = [np.mean([window - shrink >= t for shrink in range(window)]) for t in range(window + 1)]
    np.testing.assert_allclose(expected_weights(window), reached, rtol=1e-6)


@every_way
@given(a=words, b=words)
@settings(max_examples=25)
def test_a_text_is_like_itself_and_both_ways_round_are_the_same(way, a, b):
    scorer = Cosine(ParagraphVectors(MODEL, way))
    own, there, back = scorer([(a, a), (a, b), (b, a)])
    known = any(token in WORDS for token in a.split())
    assert own == 1.0 if known else np.isnan(own)
    np.testing.assert_equal(there, back)


@every_way
@given(batch=st.lists(words, min_size=1, max_size=6), order=st.randoms(use_true_random=False))
@settings(max_examples=25)
def test_a_vector_hangs_on_its_text_alone(way, batch, order):
    embedder = ParagraphVectors(MODEL, way)
    shuffled = list(range(len(batch)))
    order.shuffle(shuffled)
    together = embedder.embed(batch).vectors
    np.testing.assert_array_equal(embedder.embed([batch[i] for i in shuffled]).vectors, together[shuffled])
    np.testing.assert_array_equal(np.concatenate([embedder.embed([one]).vectors for one in batch]), together)


def test_every_process_finds_the_same_vectors():
    code = (
        "import hashlib\n"
        "from tiny_huffman import tiny_huffman\n"
        "from quiltwork.text.paragraph.inference import *\n"
        "m = tiny_huffman(); t = texts(m, [['the', 'p53', 'gene'], ['not', 'cell']])\n"
        "ways = [Inference(p, h) for p in ('sg', 'cbow') for h in ('sampled', 'full', 'weighted', 'closed')]\n"
        "print(hashlib.sha256(b''.join(infer(m, t, w).tobytes() for w in ways)).hexdigest())"
    )
    found = texts(MODEL, [["the", "p53", "gene"], ["not", "cell"]])
    here = hashlib.sha256(b"".join(infer(MODEL, found, way).tobytes() for way in WAYS)).hexdigest()
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == here


def test_only_sampling_hangs_on_the_seed():
    found = texts(MODEL, [["the", "p53", "gene", "binds"]])
    for way in WAYS:
        same = np.array_equal(infer(MODEL, found, way), infer(MODEL, found, replace(way, seed=1)))
        assert same == (way.how != "sampled")


@every_way
@pytest.mark.parametrize("text", ["", " \n\t", "unheard qqq", "\x00\ufeff"])
def test_a_text_without_a_known_word_has_no_vector(way, text):
    made = ParagraphVectors(MODEL, way).embed([text, "gene"])
    assert made.known.tolist() == [False, True]
    assert made.used.tolist() == [0, 1]
    assert not made.vectors[0].any()
    assert made.vectors[1].any()
    assert np.isnan(Cosine(ParagraphVectors(MODEL, way))([(text, text)])).all()


def test_unknown_words_are_counted_and_keep_their_places():
    way = Inference("sg", "full", window=1)
    made = ParagraphVectors(MODEL, way).embed(["gene qqq cell", "gene cell"])
    assert made.tokens.tolist() == [3, 2]
    assert made.used.tolist() == [2, 2]
    assert not np.array_equal(made.vectors[0], made.vectors[1])


@every_way
def test_very_long_texts_and_strange_letters_have_finite_vectors(way):
    long = "the p53 gene binds β-actin µ μ " * 3000
    made = ParagraphVectors(MODEL, way).embed([long, "ＧＥＮＥ", "gene"])
    assert np.isfinite(made.vectors).all()
    assert made.known.all()
    assert not made.truncated.any()
    np.testing.assert_array_equal(made.vectors[1], made.vectors[2])  # full-width letters are the same letters


def test_the_hash_of_a_text_tells_where_words_end():
    assert text_hash(["ab", "c"]) != text_hash(["a", "bc"]) != text_hash(["abc"])


@pytest.mark.parametrize(
    ("field", "value"),
    [("predicts", "dm"), ("how", "random"), ("window", 0), ("window", 2.5), ("passes", 0), ("alpha", 0.0),
     ("alpha", float("nan")), ("alpha", "much"), ("seed", -1), ("window", True)],
)  # fmt: skip
def test_a_setting_out_of_range_is_named(field, value):
    with pytest.raises(BadInputError, match=f"inference: {field}"):
        Inference(**{field: value})
