"""Scores of pairs: what is known, what is not, and means of both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.text.embedder import Embedded
from quiltwork.text.files import Folder, read_json
from quiltwork.text.measures import measure_named
from quiltwork.text.pipeline import pipeline_named
from quiltwork.text.scorer import Cosine, Mean, Words


@dataclass(frozen=True)
class Letters:
    """A sentence's counts of a, b and c; unknown where it has none of them."""

    name: str = "letters"
    dimensions: int = 3

    def embed(self, sentences):
        vectors = np.array([[text.count(letter) for letter in "abc"] for text in sentences], np.float32).reshape(-1, 3)
        counts = np.array([len(text) for text in sentences], np.int64)
        return Embedded(vectors, vectors.any(1), counts, counts, np.zeros(len(counts), bool))


def test_a_cosine_is_one_for_equal_sentences_and_says_nothing_of_unknown_ones():
    scores = Cosine(Letters())([("abc", "abc"), ("a", "b"), ("xyz", "abc"), ("", "")])
    assert scores[:2].tolist() == [1.0, 0.0]
    assert np.isnan(scores[2:]).all()


def test_a_mean_is_of_those_that_have_something_to_say():
    words = Words("jaccard", measure_named("jaccard"), pipeline_named("paper"))
    mean = Mean("both", (words, Cosine(Letters())))
    assert mean([("ab", "ab"), ("xyz", "xyz"), ("a b", "b a")]).tolist() == [1.0, 1.0, 1.0]
    silent = Mean("silent", (Cosine(Letters()),))
    assert np.isnan(silent([("x", "y")])).all()
    assert [len(scorer([])) for scorer in (mean, silent)] == [0, 0]


def test_a_mean_of_nothing_is_an_error():
    with pytest.raises(BadInputError, match="nothing"):
        Mean("none", ())


def test_a_models_files_say_what_is_wrong_with_them(tmp_path):
    files = Folder(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(BadInputError, match="not a JSON object"):
        read_json(files, "config.json")
    with pytest.raises(NotFoundError, match="no such file"):
        files.read("tokenizer.json")
    with pytest.raises(BadInputError, match="not a safetensors file"):
        files.tensors("model.safetensors")
