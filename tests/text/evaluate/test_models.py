"""Models out of their folders: what is told where there is none, or one of no kind."""

from __future__ import annotations

import json

import pytest

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.text.evaluate.models import open_model, words_of


def folder(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(NotFoundError, match="no such folder"):
        open_model(tmp_path / "none")


@pytest.mark.parametrize("kind", [3, ["word-vectors"]])
def test_a_type_that_is_no_name(tmp_path, kind):
    with pytest.raises(BadInputError, match=r"config\.json: model_type: .* is no model of sentences"):
        open_model(folder(tmp_path, {"model_type": kind}))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"tokens": 12}, 12),
        ({"training": {"tokens": 7}}, 7),
        ({"tokens": "12"}, None),
        ({"tokens": True}, None),
        ({}, None),
    ],
)
def test_how_many_words_it_was_trained_on_if_it_says(tmp_path, config, words):
    assert words_of(folder(tmp_path, config)) == words


def test_a_folder_without_a_config_says_nothing(tmp_path):
    assert words_of(tmp_path) is None
