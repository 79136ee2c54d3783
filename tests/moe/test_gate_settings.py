"""Gates as JSON come back as they were."""

from __future__ import annotations

import json

import pytest

from quiltwork.core.errors import UnsupportedError
from quiltwork.moe import Adaptive, ExpertChoice, NullExperts, RandomSecond, TopK, TopP
from quiltwork.moe.gate_settings import gate_of, gates_document, gates_of


def test_every_gate_comes_back_as_it_was():
    gates = dict(enumerate([
        Adaptive(-0.25, 3, "pair", "raw"), TopK(1), TopP(0.3, 2, 1.0), TopP(), RandomSecond(0.4),
        ExpertChoice(1.5), NullExperts(2, 4),
    ]))  # fmt: skip
    document = json.loads(json.dumps(gates_document(gates)))
    assert gates_of(document | {"task": "lm"}, "here") == gates


def test_weights_that_are_not_said_are_those_that_the_model_was_trained_with():
    assert gate_of({"gate": "TopK"}, "here", "raw") == TopK(weights="raw")
    assert gate_of({"gate": "TopK", "weights": "sum_to_one"}, "here", "raw") == TopK()


def test_what_is_set_token_by_token_is_not_saved():
    torch = pytest.importorskip("torch")
    with pytest.raises(UnsupportedError, match="gate: threshold"):
        gates_document({0: Adaptive(torch.zeros(3))})
