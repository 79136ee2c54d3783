"""Every sentence of one list beside every one of another."""

from __future__ import annotations

import numpy as np

from quiltwork.text.embedder import Embedded, cosines
from quiltwork.text.matrix import cosine_matrix


def embedded(vectors, known):
    counts = np.ones(len(known), np.int64)
    return Embedded(np.array(vectors, np.float32), np.array(known), counts, counts, np.zeros(len(known), np.bool_))


def test_each_cell_is_the_cosine_of_its_pair():
    rng = np.random.default_rng(3)
    a, b = (embedded(rng.normal(size=(n, 6)), [True] * n) for n in (4, 3))
    found = cosine_matrix(a, b)
    assert found.shape == (4, 3)
    for j in range(3):
        one = embedded(np.repeat(b.vectors[j : j + 1], 4, axis=0), [True] * 4)
        assert np.allclose(found[:, j], cosines(a, one), atol=1e-6)


def test_rows_and_columns_of_sentences_that_are_not_known_are_not_numbers():
    a, b = embedded([[1, 0], [0, 0]], [True, False]), embedded([[3, 0], [0, 0], [0, 2]], [True, False, True])
    assert np.array_equal(cosine_matrix(a, b), [[1, np.nan, 0], [np.nan] * 3], equal_nan=True)


def test_no_cell_is_above_one():
    vectors = np.random.default_rng(0).normal(size=(200, 384)).astype(np.float32)
    same = embedded(vectors, [True] * 200)
    assert cosine_matrix(same, same).max() <= 1.0
