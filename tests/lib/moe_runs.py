"""Small trainings of models of experts on a text of their own."""

from __future__ import annotations

import random
from pathlib import Path

from quiltwork.core.servable import Json
from quiltwork.core.trainable import Setup
from quiltwork.moe.training.training import MoETraining

WORDS = ("the", "a", "cat", "dog", "sees", "hears", "big", "small", "old", "green", "and", "then", "it", "runs", "home")


def corpus(folder: Path, lines: int = 400, seed: int = 0) -> Path:
    """A text of few words, the same for the same seed."""
    draw, path = random.Random(seed), folder / "corpus.txt"
    if not path.exists():
        text = "".join(" ".join(draw.choices(WORDS, k=draw.randint(4, 9))) + ".\n" for _ in range(lines))
        path.write_text(text, encoding="utf-8")
    return path


def small(folder: Path, **changes: Json) -> dict[str, Json]:
    """The settings of a training that takes a second."""
    settings: dict[str, Json] = {
        "task": "lm", "corpus": str(corpus(folder)), "out": str(folder / "out"), "steps": 30, "length": 32, "batch": 8,
        "width": 16, "inner": 16, "layers": 2, "heads": 2, "experts": 4, "rate": 5e-3, "warm_up": 5,
        "validate_every": 10, "validate_on": 4,
    }  # fmt: skip
    return settings | changes


def begun(folder: Path, **changes: Json) -> MoETraining:
    """Set up, and no step done."""
    made = MoETraining()
    made.setup(Setup(small(folder, **changes), seed=0))
    return made
