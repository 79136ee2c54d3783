"""A family of tiny models and an engine to serve them."""

from __future__ import annotations

import itertools

import pytest
import torch
from tiny_llama import Bench, Desk, Family, reference

from quiltwork.serving.config import EngineConfig
from quiltwork.serving.engine import Engine


@pytest.fixture(scope="session")
def family() -> Family:
    torch.manual_seed(0)
    model = reference()
    return Family(Bench(), {name: tensor.clone() for name, tensor in model.state_dict().items()})


@pytest.fixture
def desk(family):
    def make(**config) -> Desk:
        clock = itertools.count()
        return Desk(Engine(EngineConfig(**config), lambda: float(next(clock))), family.bench)

    return make
