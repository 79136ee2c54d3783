"""What is trained: tasks, arms, how long, with which rates; all figures of the studies come from these runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quiltwork.core.servable import Json

TOP2, ADAPTIVE, TOP1, DENSE, RANDOM2 = "top2", "adaptive", "top1", "dense", "random2"
MAIN = (TOP2, ADAPTIVE, TOP1, DENSE)
"""The arms of every task. Dense layers are as wide as two experts: the same work for each token."""
FURTHER = ("top_p", "null", "expert_choice", "controlled_top_p")
"""Other gates, on the language model alone."""
SEEDS = (0, 1, 2, 3, 4)
LONGER = 1.5
"""All arms but top-2 are trained for so many times its steps, so that one that needs more can be seen to."""


@dataclass(frozen=True)
class Task:
    """Data, a model's size, and how long its top-2 arm is trained."""

    name: str
    files: Mapping[str, tuple[str, ...]]
    """By setting (corpus, valid, test), below the folder of data."""
    settings: Mapping[str, Json]
    steps: int
    """Of the top-2 arm; qualities are compared at so many."""
    tune_steps: int
    """Of a run that only a rate is chosen by."""
    rates: tuple[float, ...]
    """Those that are tried for each arm."""
    metric: str
    """Of the test: ``bits``, ``accuracy`` or ``bleu``."""
    arms: tuple[str, ...] = MAIN


_SENTENCES: dict[str, Json] = {"task": "classify", "tokenizer": "bpe:4000", "length": 64, "inner": 208, "batch": 32,
                               "validate_every": 20}  # fmt: skip
LM = Task(
    "lm",
    {"corpus": ("lm/gutenberg_war_and_peace.txt",)},
    {"task": "lm", "tokenizer": "byte", "length": 128, "inner": 272, "batch": 8, "validate_every": 40,
     "validate_on": 128},
    steps=600, tune_steps=200, rates=(1e-3, 2e-3, 4e-3), metric="bits",
    arms=(*MAIN, RANDOM2, *FURTHER),
)  # fmt: skip
SST2 = Task(
    "sst2",
    {"corpus": ("classify/sst2.train.tsv",), "valid": ("classify/sst2.dev.tsv",), "test": ("classify/sst2.test.tsv",)},
    _SENTENCES,
    steps=600, tune_steps=300, rates=(3e-4, 1e-3, 3e-3), metric="accuracy",
)  # fmt: skip
MULTI30K = Task(
    "multi30k",
    {split: tuple(f"translation/multi30k.{name}.{language}.gz" for language in ("en", "de"))
     for split, name in (("corpus", "train"), ("valid", "val"), ("test", "test_2016_flickr"))},
    {"task": "translate", "tokenizer": "bpe:2000", "length": 64, "inner": 440, "layers": 6, "batch": 48,
     "validate_every": 60, "validate_on": 500},
    steps=900, tune_steps=300, rates=(1e-3, 2e-3, 4e-3), metric="bleu",
)  # fmt: skip
SST5 = Task(
    "sst5",
    {"corpus": ("classify/sst5.train.txt",), "valid": ("classify/sst5.dev.txt",), "test": ("classify/sst5.test.txt",)},
    _SENTENCES,
    steps=400, tune_steps=300, rates=(3e-4, 1e-3, 3e-3), metric="accuracy", arms=(TOP2, ADAPTIVE),
)  # fmt: skip
TASKS = (SST2, LM, MULTI30K)
"""Those that figures are of. Nothing but the gate's threshold is chosen on SST-5."""
GATES = tuple((reading, threshold) for reading in ("softmax", "pair") for threshold in (0.05, 0.1, 0.2, 0.4))
"""What the threshold is chosen from, by both readings of a normalised probability."""
CHOICE_SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Run:
    """One training."""

    task: Task
    arm: str
    seed: int
    rate: float
    steps: int
    gate: Mapping[str, Json] = field(default_factory=dict)
    """Settings of the gate, beside its name."""
    tuning: bool = False
    """Whether only its validation curve is wanted."""
    matched: Run | None = None
    """For random second experts: the run that has as many in each step and layer."""

    def config(self) -> dict[str, Json]:
        """The training's settings but for files and steps."""
        # The room's own random gate has one rate for all: the run itself sets it for each layer and step.
        gate = TOP2 if self.arm == RANDOM2 else self.arm
        return {**self.task.settings, **self.gate, "gate": gate, "rate": self.rate}

    def told(self) -> dict[str, Json]:
        """What decides how it goes, beside the data and the sources."""
        told: dict[str, Json] = {"task": self.task.name, "arm": self.arm, "seed": self.seed, "tuning": self.tuning,
                                 "settings": {**self.config(), "steps": self.steps}}  # fmt: skip
        return told if self.matched is None else {**told, "matched": self.matched.told()}


def steps_of(task: Task, arm: str) -> int:
    """How long an arm is trained."""
    return task.steps if arm == TOP2 else round(task.steps * LONGER)


def tuning_runs(task: Task, gates: Mapping[str, Mapping[str, Json]]) -> Iterator[Run]:
    """Each rate for each arm, with one seed: the same effort for all."""
    for arm in task.arms:
        for rate in task.rates:
            yield Run(task, arm, SEEDS[0], rate, task.tune_steps, gates.get(arm, {}), tuning=True)


def choice_runs(rates: Mapping[str, float]) -> Iterator[Run]:
    """Those on SST-5 by which reading and threshold are chosen."""
    for seed in CHOICE_SEEDS:
        yield Run(SST5, TOP2, seed, rates[TOP2], SST5.steps, tuning=True)
        for reading, threshold in GATES:
            gate: dict[str, Json] = {"reading": reading, "threshold": threshold}
            yield Run(SST5, ADAPTIVE, seed, rates[ADAPTIVE], steps_of(SST5, ADAPTIVE), gate, tuning=True)
