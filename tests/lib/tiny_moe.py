"""Corpora of a few lines, and settings of models that train on them in a blink."""

from __future__ import annotations

import random

from quiltwork.core.trainable import Setup
from quiltwork.moe.training.training import MoETraining

SMALL = {"width": 16, "inner": 8, "layers": 2, "heads": 2, "experts": 4, "tokenizer": "byte", "batch": 6}
WORDS = "the cat sat on a mat and then it ran far from every dog in that town".split()  # noqa: SIM905


def sentences(count, seed=0):
    drawn = random.Random(seed)
    return [" ".join(drawn.choices(WORDS, k=drawn.randint(2, 7))) for _ in range(count)]


def write_corpus(folder, task):
    """The corpus of a task, as its settings name it."""
    lines = sentences(120)
    if task == "lm":
        paths = {"text.txt": "\n".join(lines) + "\n"}
    elif task == "classify":
        paths = {"rows.tsv": "".join(f"{line}\t{'cat' in line:d}\n" for line in lines)}
    else:
        paths = {"a.txt": "\n".join(lines) + "\n", "b.txt": "\n".join(line[::-1] for line in lines)}
    for name, text in paths.items():
        (folder / name).write_text(text)
    return [str(folder / name) for name in paths]


def settings_of(folder, task, **more):
    base = {"task": task, "corpus": write_corpus(folder, task), "out": str(folder / "out"), "length": 24}
    return {**SMALL, **base, "steps": 6, "warm_up": 2, "validate_every": 2, **more}


class Ticks:
    """A clock that is asked, and a second later each time."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def started(settings, seed=3):
    made = MoETraining(Ticks())
    made.setup(Setup(settings, seed))
    return made
