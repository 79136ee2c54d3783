"""The model folder of paragraph vectors: what comes back, and what is told of a broken one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_huffman import tiny_huffman

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.text.files import Folder
from quiltwork.text.paragraph.embedder import ParagraphVectors
from quiltwork.text.paragraph.folder import load, save
from quiltwork.text.paragraph.inference import Inference

EMBEDDER = ParagraphVectors(tiny_huffman(), Inference("cbow", "weighted", window=3, alpha=0.05, passes=2))


@pytest.fixture
def folder(tmp_path):
    save(EMBEDDER, tmp_path / "model", training={"seed": 3})
    return tmp_path / "model"


def test_what_was_saved_comes_back_with_its_way_to_infer(folder):
    found = load(Folder(folder))
    assert found.inference == EMBEDDER.inference
    assert found.name == EMBEDDER.name
    text = ["the p53 gene", "qqq"]
    np.testing.assert_array_equal(found.embed(text).vectors, EMBEDDER.embed(text).vectors)
    assert json.loads((folder / "config.json").read_text())["training"] == {"seed": 3}


def test_another_way_to_infer_can_be_asked_for(folder):
    assert load(Folder(folder), Inference("sg", "closed")).inference == Inference("sg", "closed")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocabulary.txt"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(NotFoundError, match=name):
        load(Folder(folder))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("config.json", b"{", "is not JSON"),
        ("config.json", b'{"model_type": "bert"}', "model_type: must be 'paragraph-vectors'"),
        ("config.json", b'{"model_type": "paragraph-vectors", "cut": "blank"}', "cut: must be 'corenlp'"),
        ("model.safetensors", b"\x08\0\0", "is not a safetensors file"),
        ("vocabulary.txt", b"\xff\xfe\n", "vocabulary.txt: is not UTF-8"),
        ("vocabulary.txt", b"gene\n", "1 words need as many inputs"),
        ("vocabulary.txt", b"", "there must be words"),
    ],
)
def test_a_broken_file_is_told_in_one_line(folder, name, content, told):
    (folder / name).write_bytes(content)
    with pytest.raises(BadInputError, match=told) as caught:
        load(Folder(folder))
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_told(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BadInputError, match="is not a safetensors file"):
        load(Folder(folder))


@pytest.mark.parametrize(
    ("inference", "told"),
    [({"how": "magic"}, "inference: how"), ({"speed": 3}, "inference: speed: is not a setting"), (None, "an object")],
)
def test_a_way_to_infer_that_there_is_not_is_told(folder, inference, told):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "inference": inference}))
    with pytest.raises(BadInputError, match=told):
        load(Folder(folder))


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match="cannot be written"):
        save(EMBEDDER, tmp_path / "file" / "model")
