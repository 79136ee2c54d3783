"""The frozen word2vec: what its arrays must be, and that gensim's are taken as they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_huffman import WORDS, tiny_huffman

from quiltwork.core.errors import BadInputError
from quiltwork.text.paragraph.huffman import UNKNOWN, of_gensim

MODEL = tiny_huffman()


def test_words_have_ids_and_others_are_unknown():
    assert MODEL.ids(["gene", "unheard", "."]).tolist() == [0, UNKNOWN, len(WORDS) - 1]
    assert MODEL.ids([]).tolist() == []


def test_first_gradients_are_what_a_vector_at_zero_learns_from_each_word():
    for word in range(len(WORDS)):
        path = slice(MODEL.starts[word], MODEL.starts[word + 1])
        nodes, codes = MODEL.nodes[MODEL.points[path]], MODEL.codes[path]
        at_zero = sum((1 - float(c) - 0.5) * n for n, c in zip(nodes, codes, strict=True))
        np.testing.assert_allclose(MODEL.first_gradients[word], at_zero, rtol=1e-5, atol=1e-6)
    assert not MODEL.first_gradients[UNKNOWN].any()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"words": (*WORDS[:-1], "gene")}, "each of them once"),
        ({"words": WORDS[:-1]}, "words need as many inputs"),
        ({"inputs": MODEL.inputs.astype(np.float64)}, "inputs must be"),
        ({"inputs": MODEL.inputs[:, :5].copy()}, "of the nodes' dimensions"),
        ({"nodes": np.full_like(MODEL.nodes, np.nan)}, "finite"),
        ({"starts": MODEL.starts[::-1].copy()}, "starts must rise"),
        ({"codes": MODEL.codes[:-1]}, "as many as starts says"),
        ({"codes": MODEL.codes + np.uint8(1)}, "0 or 1"),
        ({"points": MODEL.points + np.int32(5)}, "not one of the nodes"),
        ({"points": MODEL.points - np.int32(1)}, "not one of the nodes"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(wrong, told):
    with pytest.raises(BadInputError, match=told):
        replace(MODEL, **wrong)


SENTENCES = [["the", "gene", "binds", "the", "kinase"], ["p53", "binds", "the", "gene"], ["a", "gene", "of", "p53"]] * 4


def test_the_tree_of_gensim_is_taken_as_it_is():
    from gensim.models import Word2Vec

    trained = Word2Vec(SENTENCES, vector_size=8, hs=1, negative=0, min_count=1, workers=1, seed=3, sample=0)
    model = of_gensim(trained)
    assert model.words == tuple(trained.wv.index_to_key)
    for word in range(len(model.words)):
        path = slice(model.starts[word], model.starts[word + 1])
        assert model.points[path].tolist() == list(trained.wv.get_vecattr(word, "point"))
        assert model.codes[path].tolist() == list(trained.wv.get_vecattr(word, "code"))
    np.testing.assert_array_equal(model.inputs, trained.wv.vectors)
    np.testing.assert_array_equal(model.nodes, trained.syn1)


def test_a_word2vec_without_a_tree_is_refused():
    from gensim.models import Word2Vec

    with pytest.raises(BadInputError, match="no hierarchical softmax"):
        of_gensim(Word2Vec(SENTENCES, vector_size=8, min_count=1, workers=1))
