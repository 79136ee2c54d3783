"""The tasks of the studies with models that train in a blink, and corpora of a few lines where theirs are."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from string import ascii_lowercase

from tiny_moe import sentences

from quiltwork.core.servable import Json
from work.moe_arms import TASKS, Task

SMALL: dict[str, Json] = {
    "width": 16, "inner": 16, "layers": 2, "heads": 2, "experts": 4, "length": 16, "tokenizer": "byte", "batch": 4,
    "validate_every": 2, "validate_on": 4, "warm_up": 2,
}  # fmt: skip


def tiny_tasks(steps: int = 8) -> tuple[Task, ...]:
    """Each with its own files, arms, rates and metric."""
    return tuple(replace(task, steps=steps, tune_steps=2, settings={**task.settings, **SMALL}) for task in TASKS)


def long_lines(count: int, seed: int) -> list[str]:
    """Of so many different words that any tokenizer of the tasks finds its tokens, and longer than any sample."""
    drawn = random.Random(seed)
    words = ["".join(drawn.choices(ascii_lowercase, k=6)) for _ in range(3000)]
    return [" ".join(drawn.choices(words, k=40)) for _ in range(count)]


def write_data(root: Path, drawn: Callable[[int, int], list[str]] = sentences, running: int = 4000) -> Path:
    """What the tasks' files are called, with other texts in it. drawn : lines, of their number and a seed."""
    for task in TASKS:
        for seed, (split, names) in enumerate(sorted(task.files.items())):
            # A tenth of running text is for validation and test.
            lines = drawn(running if task.name == "lm" else 60 if split == "corpus" else 20, seed)
            for name in names:
                path = root / "moe" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                text = "".join(f"{line}\t{'cat' in line:d}\n" if "tsv" in name else f"{line}\n" for line in lines)
                path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return root
