"""A fresh zoo, and tiny checkpoints saved once per session."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import build

from quiltwork.zoo import Zoo


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    """An empty zoo."""
    return Zoo(tmp_path / "zoo")


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``saved(kind, seed=0, **save_options)``: the directory of a tiny model, the same one for the same arguments."""
    made: dict[str, Path] = {}

    def save(kind: str, seed: int = 0, **options: Any) -> Path:
        key = json.dumps([kind, seed, sorted(options.items())])
        if key not in made:
            made[key] = tmp_path_factory.mktemp("models") / f"{kind}-{seed}"
            build(kind, seed).save_pretrained(made[key], **options)
        return made[key]

    return save


@pytest.fixture(scope="session")
def adder() -> Any:
    """The module ``adder.py`` beside this file: small made-up models, in this process or as a program."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("zoo_adder", Path(__file__).with_name("adder.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
