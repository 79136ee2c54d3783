"""The room's scorers are those that were frozen, however they are laid out; and they say what they need."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.text.scorer import Mean

PAIRS = [("0", ""), ("1", ""), ("2", "")]


@dataclass(frozen=True)
class Told:
    name: str
    values: tuple[float, ...]

    def __call__(self, pairs):
        return np.array([self.values[int(a)] for a, _ in pairs])


def test_the_choices_are_those_that_were_frozen():
    from work.text_fusion import frozen

    choices, digest = frozen()
    assert len(digest) == 12
    assert choices["strings"] == "lexical"


def test_other_choices_are_refused(tmp_path, monkeypatch):
    from work import text_fusion

    choices, _ = text_fusion.frozen()
    path = tmp_path / "text_choices.json"
    monkeypatch.setattr(text_fusion, "FILE", path)
    path.write_text(json.dumps(dict(reversed(choices.items()))))
    assert text_fusion.frozen()[0] == choices
    path.write_text(json.dumps({**choices, "ridge": 0.5}))
    with pytest.raises(BadInputError, match=r"text_choices\.json: has the digest"):
        text_fusion.frozen()


def test_recipes_are_the_plain_means_that_the_room_offers():
    from work.text_fusion import with_recipes

    a, b, c = Told("a", (0.0, 0.5, 1.0)), Told("b", (1.0, 0.5, np.nan)), Told("c", (0.0, 0.0, 0.3))
    choices = {"unsupervised": {"mean": ["a", "b"]}, "with_encoder": {"mean": ["unsupervised", "c"]}}
    found = with_recipes(choices, {scorer.name: scorer(PAIRS) for scorer in (a, b, c)})
    own = Mean("unsupervised", (a, b))
    assert found["unsupervised"] == pytest.approx(own(PAIRS))
    assert found["with_encoder"] == pytest.approx(Mean("with_encoder", (own, c))(PAIRS))
    assert found["with_encoder"] == pytest.approx([0.25, 0.25, 0.65])


def test_trained_vectors_that_are_not_there_are_named(tmp_path):
    from work.text_fusion import trained_folders

    choices = {"vectors": {"folder": "v-{seed}", "seeds": [0, 1]}}
    with pytest.raises(NotFoundError, match=r"needs trained vectors.*QUILTWORK_TRAINED"):
        trained_folders(choices, {})
    (tmp_path / "v-0").mkdir()
    with pytest.raises(NotFoundError, match="v-1: needs trained vectors"):
        trained_folders(choices, {"QUILTWORK_TRAINED": str(tmp_path)})
    (tmp_path / "v-1").mkdir()
    assert list(trained_folders(choices, {"QUILTWORK_TRAINED": str(tmp_path)})) == [0, 1]
