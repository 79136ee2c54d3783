"""Two trained models that read and write the same tokens, in a zoo of each test's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_kin import GATE, noisy
from tiny_trained import save_trained

from quiltwork.zoo import Zoo

STEPS = {"small": 60, "large": 150}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo's folder with ``small`` and ``large``."""
    folder = tmp_path_factory.mktemp("trained")
    with Zoo(folder / "zoo") as zoo:
        for kind, steps in STEPS.items():
            zoo.add(save_trained(kind, folder / kind, steps=steps))
    return folder / "zoo"


@pytest.fixture
def zoo(trained: Path, tmp_path: Path) -> Zoo:
    """``small`` and ``large``, in a copy that a test may change."""
    shutil.copytree(trained, tmp_path / "zoo")
    return Zoo(tmp_path / "zoo")


@pytest.fixture
def broken(zoo: Zoo, tmp_path: Path) -> str:
    """A model in that zoo with weights that are no numbers."""
    zoo.export("large", tmp_path / "large")
    zoo.add(noisy(tmp_path / "large", tmp_path / "broken", {GATE: float("nan")}))
    return "broken"
