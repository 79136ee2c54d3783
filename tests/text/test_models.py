"""Which model a folder or a zoo's model is."""

from __future__ import annotations

import json

import pytest
import tiny_sentences
from tiny_sentences import tiny_folder

from quiltwork.core.errors import BadInputError, NotFoundError, UnsupportedError
from quiltwork.core.names import ModelRef
from quiltwork.text import models
from quiltwork.text.files import Folder
from quiltwork.zoo.types import Model


def manifest(family, *files, **config):
    return Model(ModelRef("m"), "v", family, (), {"model_type": family, **config}, dict.fromkeys(files, "c"))


def test_models_of_sentences_are_taken_and_language_models_left_to_their_own_host():
    assert all(models.takes(manifest(family)) for family in (*models.KINDS, "bert", "mpnet"))
    assert models.takes(manifest("oddity", "modules.json"))
    assert not models.takes(manifest("oddity"))
    assert not models.takes(manifest("llama", "modules.json"))
    assert not models.takes(manifest("unknown", model_type="llama"))


def test_a_folder_is_loaded_by_its_model_type(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "KINDS", {tiny_sentences.FAMILY: "tiny_sentences:TinyWords"})
    made = models.model_at(tiny_folder(tmp_path / "m"))
    assert isinstance(made, tiny_sentences.TinyWords)
    assert models.load(Folder(tmp_path / "m")).dimensions == tiny_sentences.WIDTH


def test_what_is_no_model_of_sentences_is_said(tmp_path):
    with pytest.raises(NotFoundError, match="no such folder"):
        models.model_at(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match="no model of sentences"):
        models.model_at(tmp_path / "empty")
    for text, error in (('{"model_type": "mamba"}', UnsupportedError), ("{", BadInputError), ("{}", NotFoundError)):
        (tmp_path / "empty" / "config.json").write_text(text)
        with pytest.raises(error, match=r"empty"):
            models.model_at(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text(json.dumps({"model_type": 7}))
    with pytest.raises(UnsupportedError):
        models.model_at(tmp_path / "empty")
