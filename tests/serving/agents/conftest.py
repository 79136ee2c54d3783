"""A family of models over agents in threads."""

from __future__ import annotations

import pytest
from agent_fleet import Fleet


@pytest.fixture(scope="session")
def fleet(family):
    return {
        "base": family.base(),
        "lora": family.lora("lora", rank=4, seed=1),
        "top1": family.changed("top1", "layers.3.", seed=4),
        "head": family.changed("head", "lm_head", seed=6),
        "full": family.changed("full", ".", seed=7),
    }


@pytest.fixture
def make(family):
    made = []

    def make(**options):
        made.append(Fleet(family, **options))
        return made[-1]

    yield make
    for fleet in made:
        fleet.engine.close()
