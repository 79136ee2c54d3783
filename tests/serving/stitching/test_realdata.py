"""Real weights: what leaving out two of stories260K's five layers costs, and what a trained stitch brings back."""

from __future__ import annotations

import dataclasses

import pytest

from quiltwork.serving.stitching import DISTILLATION, Smaller, prune
from quiltwork.zoo import Zoo

pytestmark = [pytest.mark.realdata, pytest.mark.slow]

RECIPE = dataclasses.replace(DISTILLATION, steps=60, window=64, batch=4)


def test_a_trained_stitch_recovers_most_of_what_two_left_out_layers_cost(data_dir, tmp_path):
    zoo = Zoo(tmp_path / "zoo")
    zoo.add(data_dir / "llm" / "weights" / "stories260K" / "hf", name="stories")
    text = (data_dir / "llm" / "text" / "tinystories.txt").read_text()[:50_000]

    def without(name, **options):
        smaller = Smaller((0, 1, 4), **options)
        return prune(zoo, "stories", smaller, text=text, recipe=RECIPE, say=lambda phrase: None, name=name)

    bare, bridged = without("bare", bare=True), without("bridged")
    base = bridged.original.loss
    assert base < 2.6
    assert bare.test.loss - base > 2.0
    assert bridged.trained.steps > 0
    assert bridged.trained.validation.divergence < bridged.trained.start.divergence
    assert bridged.test.loss - base < 0.5 * (bare.test.loss - base)
    assert bridged.test.agreement > 1.5 * bare.test.agreement
    assert bridged.cost < 0.7
