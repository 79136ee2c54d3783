"""What is wrong with the settings of a fine-tuning is said by the name of the field, before anything is loaded."""

from __future__ import annotations

import math

import pytest

from quiltwork.core.errors import BadInputError
from quiltwork.serving.finetuning import FineTuning, read_config

LEAST = {"model": "m", "text": "t", "out": "o", "steps": 10}
LORA = {"method": "lora"}


def test_the_least_that_can_be_said():
    assert read_config(LEAST) == FineTuning(text="t", out="o", steps=10, model="m")


def test_a_model_of_a_zoo_has_a_zoo_and_a_name():
    config = read_config({"zoo": "z", "name": "n", "text": "t", "out": "o", "steps": 1})
    assert (config.model, config.zoo, config.name) == (None, "z", "n")


def test_low_rank_updates_have_a_rate_of_their_own():
    assert read_config(LEAST | LORA).rate > read_config(LEAST).rate
    assert read_config(LEAST | LORA | {"rate": 0.5}).rate == 0.5


@pytest.mark.parametrize("missing", ["text", "out", "steps"])
def test_what_is_missing_is_named(missing):
    with pytest.raises(BadInputError, match=f"config: {missing}: is missing"):
        read_config({name: value for name, value in LEAST.items() if name != missing})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "model: needs a checkpoint's folder, or else"),
        ({"zoo": "z"}, "model: needs a checkpoint's folder, or else"),
        ({"model": None, "zoo": "z"}, "name: is missing"),
        ({"model": None, "name": "n"}, "zoo: is missing"),
        ({"model": 3}, "model: must be text"),
        ({"model": ""}, "model: is no name of anything"),
        ({"text": 3}, "text: must be text"),
        ({"out": ["o"]}, "out: must be text"),
        ({"method": "qlora"}, "method: 'qlora' is not one of full, lora"),
        ({"method": None}, "method: must be text"),
        ({"rank": 4}, "rank: is for method lora, and the method is full"),
        ({"targets": ["q_proj"]}, "targets: is for method lora"),
        (LORA | {"rank": 0}, "rank: must be a positive whole number"),
        (LORA | {"alpha": 0}, "alpha: 0 is not above 0"),
        (LORA | {"targets": []}, "targets: must be a list of projections' names"),
        (LORA | {"targets": "q_proj"}, "targets: must be a list"),
        (LORA | {"targets": [1]}, "targets: must be a list"),
        ({"window": 0}, "window: must be a positive whole number"),
        ({"batch": 2.5}, "batch: must be a positive whole number, not 2.5"),
        ({"batch": True}, "batch: must be a positive whole number"),
        ({"micro_batch": 0}, "micro_batch: must be a positive whole number"),
        ({"steps": "many"}, "steps: must be a positive whole number, not many"),
        ({"rate": 0}, "rate: 0 is not above 0"),
        ({"rate": "1e-3"}, "rate: must be a number, not 1e-3"),
        ({"rate": math.nan}, "rate: must be a number"),
        ({"rate": None}, "rate: must be a number"),
        ({"weight_decay": -1}, "weight_decay: -1 is not at least 0"),
        ({"clip": -0.5}, "clip: -0.5 is not at least 0"),
        ({"warmup": -1}, "warmup: must be a whole number that is not negative"),
        ({"warmup": 10}, "warmup: 10 is not less than steps, 10"),
        ({"held_out": 0}, "held_out: 0 is not above 0"),
        ({"held_out": 1}, "held_out: 1 of the text leaves nothing to learn from"),
        ({"dtype": "float16"}, "dtype: 'float16' is not one of float32, bfloat16"),
        ({"lr": 1}, "lr: is not a setting.*known: model"),
    ],
)
def test_what_is_wrong_is_named(changes, message):
    with pytest.raises(BadInputError, match=f"config: {message}"):
        read_config(LEAST | changes)
