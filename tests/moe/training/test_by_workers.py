"""A model of experts trained by processes whose number changes meanwhile, as a cluster runs it."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from elastic_crew import Crew
from tiny_moe import settings_of, started

from quiltwork.cluster.elastic import Concluded, Left, Regrouped

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
GROUPS = [("w0",), ("w0", "w1"), ("w1",)]
HOLD = (2, 60)
"""In these steps the next group is made; samples of an order that learns come again by then."""
TOLD = ("step", "samples", "valid_loss", "train_loss", "flops", "expert_flops")
"""Of a point of the curve, what does not hang on the machine."""


@pytest.mark.parametrize(
    ("task", "more"),
    [
        ("lm", {"target_experts": 1.4}),
        ("classify", {"order": "cost", "buckets": 3, "shares": "balanced", "micro_batch": 2}),
        ("translate", {}),
    ],
)
def test_growing_and_shrinking_it_becomes_what_it_becomes_alone(tmp_path, task, more):
    settings = settings_of(tmp_path, task, steps=70, validate_every=10, **more)
    alone = started({**settings, "out": str(tmp_path / "alone")})
    while not alone.step().finished:
        pass
    config = {**settings, "hold": list(HOLD)}
    with Crew(tmp_path / "crew", "held_moe:HeldMoE", config=config) as crew:
        crew.begin(*GROUPS[0])
        for step, (before, group) in zip(HOLD, pairwise(GROUPS), strict=True):
            crew.held(step, len(before))
            crew.begin(*group)
            crew.prepared(*before, *group)
            crew.open(step)
            crew.wait(Regrouped, lambda report, group=group: report.what.members == group)
        crew.wait(Concluded)
        for name in crew.processes:
            crew.wait(Left, lambda report, name=name: report.worker == name)
    assert [one.members for one in crew.of(Regrouped)] == GROUPS
    found, wanted = (json.loads((tmp_path / out / "training.json").read_text()) for out in ("out", "alone"))
    assert found["samples"] == wanted["samples"]
    assert found["test"] == pytest.approx(wanted["test"], rel=1e-3)
    assert len(found["curve"]) == len(wanted["curve"])
    for point, other in zip(found["curve"], wanted["curve"], strict=True):
        assert {name: point[name] for name in other if name in TOLD} == pytest.approx(
            {name: other[name] for name in other if name in TOLD}, rel=1e-3
        )
