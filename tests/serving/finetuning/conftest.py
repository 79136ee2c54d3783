"""A model that has hardly learned anything, a text to learn from, and fine-tunings of the one on the other."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_trained import save_trained, story

from quiltwork.core.trainable import Setup
from quiltwork.serving.finetuning import LanguageTraining

QUICK = {"window": 24, "batch": 8, "steps": 4, "rate": 1e-2}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a checkpoint."""
    return save_trained("small", tmp_path_factory.mktemp("base") / "small", steps=5)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "story.txt"
    path.write_text(story(400, seed=1))
    return path


@pytest.fixture
def configured(base: Path, text: Path, tmp_path: Path):
    """Settings that are whole, with changes; None takes one away."""

    def make(**changes):
        settings = {"model": str(base), "text": str(text), "out": str(tmp_path / "out"), **QUICK, **changes}
        return {name: value for name, value in settings.items() if value is not None}

    return make


@pytest.fixture
def training(configured, tmp_path: Path):
    """A fine-tuning that is set up."""

    def make(seed=3, **changes) -> LanguageTraining:
        made = LanguageTraining()
        made.setup(Setup(configured(**changes), seed, workdir=str(tmp_path)))
        return made

    return make
