"""The model folder of sent2vec's vectors."""

from __future__ import annotations

import json

import numpy as np
import pytest

from quiltwork.core.errors import BadInputError
from quiltwork.text.files import Folder
from quiltwork.text.sent2vec.folder import load, save
from quiltwork.text.sent2vec.model import SentenceNgrams

WORDS = ("gene", "cell", "βactin")
MODEL = SentenceNgrams(WORDS, np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32), 2)


@pytest.fixture
def folder(tmp_path):
    save(MODEL, tmp_path, training={"seed": 1})
    return tmp_path


def test_what_was_saved_comes_back(folder):
    found = load(Folder(folder))
    text = ["gene cell", "βactin", "qqq"]
    assert found.words == WORDS
    np.testing.assert_array_equal(found.embed(text).vectors, MODEL.embed(text).vectors)
    assert found.embed(text).known.tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"longest": 99}, "longest"),
        ({"longest": "two"}, "longest"),
        ({"model_type": "paragraph-vectors"}, "model_type"),
    ],
)
def test_a_setting_out_of_range_is_named(folder, change, told):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(BadInputError, match=told):
        load(Folder(folder))


def test_weights_of_another_model_are_told(folder):
    (folder / "vocabulary.txt").write_text("a\n" * 2)
    with pytest.raises(BadInputError, match="each of them once"):
        load(Folder(folder))
