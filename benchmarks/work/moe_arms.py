"""What is trained: tasks, arms, how long, with which rates; all figures of the studies come from these runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quiltwork.core.servable import Json

TOP2, ADAPTIVE, TOP1, DENSE, RANDOM2 = "top2", "adaptive", "top1", "dense", "random2"
MAIN = (TOP2, ADAPTIVE, TOP1, DENSE)
"""The arms of every task. Dense layers are as wide as two experts: the same work for each token."""
FURTHER = ("top_p", "null", "expert_choice", "controlled_top_p")
"""Other gates, on the language model alone."""
SEEDS = (0, 1, 2, 3, 4)
FEWER_SEEDS: Mapping[str, tuple[int, ...]] = {DENSE: (0,), **dict.fromkeys(FURTHER, (0,))}
"""Of arms that no claim is about."""


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
    longer: float = 1.25
    """All arms but top-2 are trained for so many times its steps, so that one that needs more can be seen to."""


_SENTENCES: dict[str, Json] = {"task": "classify", "tokenizer": "bpe:4000", "length": 64, "inner": 208, "batch": 32,
                               "validate_every": 40}  # fmt: skip
LM = Task(
    "lm",
    {"corpus": ("lm/gutenberg_war_and_peace.txt",)},
    {"task": "lm", "tokenizer": "byte", "length": 128, "inner": 272, "batch": 8, "validate_every": 40,
     "validate_on": 128},
    steps=480, tune_steps=200, rates=(5e-4, 1e-3, 2e-3), metric="bits",
    arms=(*MAIN, RANDOM2, *FURTHER),
)  # fmt: skip
SST2 = Task(
    "sst2",
    {"corpus": ("classify/sst2.train.tsv",), "valid": ("classify/sst2.dev.tsv",), "test": ("classify/sst2.test.tsv",)},
    _SENTENCES,
    steps=440, tune_steps=300, rates=(3e-4, 1e-3, 3e-3), metric="accuracy",
)  # fmt: skip
MULTI30K = Task(
    "multi30k",
    {split: tuple(f"translation/multi30k.{name}.{language}.gz" for language in ("en", "de"))
     for split, name in (("corpus", "train"), ("valid", "val"), ("test", "test_2016_flickr"))},
    {"task": "translate", "tokenizer": "bpe:2000", "length": 64, "inner": 440, "layers": 4, "batch": 32,
     "validate_every": 50, "validate_on": 500},
    steps=400, tune_steps=200, rates=(2e-3, 4e-3, 8e-3), metric="bleu",
)  # fmt: skip
SST5 = Task(
    "sst5",
    {"corpus": ("classify/sst5.train.txt",), "valid": ("classify/sst5.dev.txt",), "test": ("classify/sst5.test.txt",)},
    _SENTENCES,
    steps=320, tune_steps=240, rates=(3e-4, 1e-3, 3e-3), metric="accuracy", arms=(TOP2, ADAPTIVE),
    longer=1.4,
)  # fmt: skip
TASKS = (SST2, LM, MULTI30K)
"""Those that figures are of. Nothing but the gate's threshold is chosen on SST-5."""
GATES = tuple((reading, threshold) for reading in ("softmax", "pair") for threshold in (0.01, 0.02, 0.05, 0.1))
"""What the threshold is chosen from, by both readings of a normalised probability."""
CHOICE_SEEDS = (0, 1)


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
        return {**self.task.settings, **self.gate, "gate": self.arm, "rate": self.rate}

    def told(self) -> dict[str, Json]:
        """What decides how it goes, beside the data and the sources."""
        told: dict[str, Json] = {"task": self.task.name, "arm": self.arm, "seed": self.seed, "tuning": self.tuning,
                                 "settings": {**self.config(), "steps": self.steps}}  # fmt: skip
        return told if self.matched is None else {**told, "matched": self.matched.told()}


def steps_of(task: Task, arm: str) -> int:
    """How long an arm is trained."""
    return task.steps if arm == TOP2 else round(task.steps * task.longer)


def tuning_runs(task: Task, gate: Mapping[str, Json]) -> Iterator[Run]:
    """Each rate for each arm, with one seed: the same effort for all. gate : of the adaptive arm.

    Random second experts are matched to an adaptive run with the same rate.
    """
    for rate in task.rates:
        for arm in task.arms:
            yield of_arm(task, arm, SEEDS[0], {arm: rate, ADAPTIVE: rate}, gate, tuning=True)


def of_arm(
    task: Task, arm: str, seed: int, rates: Mapping[str, float], gate: Mapping[str, Json], *, tuning: bool = False
) -> Run:
    """A run with the arm's rate. gate : of the adaptive arm."""
    steps = task.tune_steps if tuning else steps_of(task, arm)
    adaptive = Run(task, ADAPTIVE, seed, rates.get(ADAPTIVE, 0.0), steps, gate, tuning)
    if arm == ADAPTIVE:
        return adaptive
    if arm == RANDOM2:
        return Run(task, arm, seed, rates[arm], steps, _BALANCED_ALIKE, tuning, matched=adaptive)
    return Run(task, arm, seed, rates[arm], steps, {}, tuning)


_BALANCED_ALIKE: dict[str, Json] = {"balance_of": "single"}
"""As an adaptive gate's: of the tokens with one expert."""


def choice_runs(rates: Mapping[str, float]) -> Iterator[Run]:
    """Those on SST-5 by which reading and threshold are chosen."""
    for seed in CHOICE_SEEDS:
        yield Run(SST5, TOP2, seed, rates[TOP2], SST5.steps, tuning=True)
        for reading, threshold in GATES:
            gate: dict[str, Json] = {"reading": reading, "threshold": threshold}
            yield Run(SST5, ADAPTIVE, seed, rates[ADAPTIVE], steps_of(SST5, ADAPTIVE), gate, tuning=True)


def seed_runs(
    rates: Mapping[str, Mapping[str, float]],
    gate: Mapping[str, Json],
    tasks: Sequence[Task] = TASKS,
    seeds: Sequence[int] = SEEDS,
) -> Iterator[Run]:
    """All that is reported, the cheap tasks first, seed by seed: whenever it is stopped, arms have as many seeds.

    rates : by task, by arm.
    """
    for seed in seeds:
        for task in tasks:
            for arm in task.arms:
                if seed in FEWER_SEEDS.get(arm, seeds):
                    yield of_arm(task, arm, seed, rates[task.name], gate)


def quick_tasks() -> tuple[Task, ...]:
    """The same with a few steps."""
    fewer: dict[str, Json] = {"validate_every": 20, "validate_on": 64, "warm_up": 5}
    return tuple(replace(task, steps=40, tune_steps=20, settings={**task.settings, **fewer}) for task in TASKS)
