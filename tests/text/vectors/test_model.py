"""A model's folder holds all that its vectors are; words that it never learnt anything of have none."""

from __future__ import annotations

import json

import numpy as np
import pytest

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.text.files import Folder
from quiltwork.text.vectors.model import WordVectors


@pytest.fixture
def folder(train, to_the_end, tmp_path):
    to_the_end(train(hierarchical=True))
    return tmp_path / "model"


def test_what_is_saved_is_what_is_loaded(folder, tmp_path):
    loaded = WordVectors.load(Folder(folder))
    loaded.save(tmp_path / "again", training={})
    again = WordVectors.load(Folder(tmp_path / "again"))
    assert again.vocabulary.words == loaded.vocabulary.words
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert set(loaded.common) == {"idf", "sif", "words"}


def test_the_configuration_tells_what_it_is_and_how_it_was_trained(folder):
    told = json.loads((folder / "config.json").read_text())
    assert told["model_type"] == "word-vectors"
    assert told["subwords"] == {"shortest": 3, "longest": 6, "buckets": 500}
    assert told["training"]["seed"] == 0
    assert told["training"]["hierarchical"] is True


def test_a_word_never_seen_has_the_mean_of_its_runs_of_letters_as_gensim_has_it(folder):
    from gensim.models.fasttext import ft_ngram_hashes

    vectors = WordVectors.load(Folder(folder))
    found = vectors.vector("kinases")
    seen = [bucket for bucket in ft_ngram_hashes("kinases", 3, 6, 500) if vectors.ngrams.seen[bucket]]
    assert "kinases" not in vectors.index
    assert np.allclose(found, vectors.ngrams.vectors[seen].mean(axis=0), atol=1e-6)


def test_a_word_of_runs_never_seen_has_no_vector(train, to_the_end, tmp_path):
    to_the_end(train(buckets=1_000_003, dimensions=2))
    vectors = WordVectors.load(Folder(tmp_path / "model"))
    assert vectors.vector("ωψχ") is None
    assert vectors.vector("kinaseω") is not None


def test_without_runs_of_letters_only_the_vocabulary_has_vectors(train, to_the_end, tmp_path):
    to_the_end(train(model="word2vec"))
    vectors = WordVectors.load(Folder(tmp_path / "model"))
    assert vectors.vector("kinase").shape == (12,)
    assert vectors.vector("kinases") is None
    assert vectors.huffman is None


def change(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "bert"), ("subwords", 3), ("subwords", {"shortest": 3}), ("sentences", -1), ("tokens", None),
        ("common", {}), ("common", ["other"]), ("subwords", {"shortest": 3, "longest": 6, "buckets": 7}),
    ],
)  # fmt: skip
def test_a_configuration_that_does_not_fit_is_told(folder, field, value):
    change(folder, **{field: value})
    with pytest.raises(BadInputError) as caught:
        WordVectors.load(Folder(folder))
    assert str(folder) in str(caught.value)


def test_files_that_are_missing_or_damaged_are_told(folder):
    for name, error in (
        ("vocabulary.txt", BadInputError),
        ("model.safetensors", BadInputError),
        ("config.json", BadInputError),
    ):
        path = folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(error, match="model"):
            WordVectors.load(Folder(folder))
        path.unlink()
        with pytest.raises(NotFoundError, match=name):
            WordVectors.load(Folder(folder))
        path.write_bytes(whole)
    (folder / "vocabulary.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(BadInputError, match="not UTF-8"):
        WordVectors.load(Folder(folder))


def test_values_that_are_not_finite_are_refused(folder):
    from safetensors.numpy import load_file, save_file

    arrays = dict(load_file(folder / "model.safetensors"))
    arrays["vectors"] = arrays["vectors"].copy()
    arrays["vectors"][0, 0] = np.nan
    save_file(arrays, folder / "model.safetensors")
    with pytest.raises(BadInputError, match="vectors: has values that are not finite"):
        WordVectors.load(Folder(folder))
