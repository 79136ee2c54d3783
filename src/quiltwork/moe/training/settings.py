"""What a training is asked for, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json
from quiltwork.moe.control.controller import METHODS
from quiltwork.moe.curriculum.orders import ORDERS, RANDOM, UNLEARNT
from quiltwork.moe.gate import WEIGHTS
from quiltwork.moe.gates import READINGS
from quiltwork.moe.models.build import CLASSIFY, LM, TASKS, TRANSLATE
from quiltwork.moe.models.shape import ModelShape
from quiltwork.zoo.config import Fields

WHERE = "config"
"""What errors call it: ``config: rate: must be a number``."""
ADAPTIVE, CONTROLLED, DENSE = "adaptive", "controlled_top_p", "dense"
GATES = (ADAPTIVE, "top1", "top2", "random2", "top_p", "null", "expert_choice", CONTROLLED, DENSE)
GATE_SETTINGS = ("gate", "threshold", "reading", "weights", "most", "p", "nulls", "mean_experts")
STEERED = (ADAPTIVE, CONTROLLED)
"""Gates whose thresholds a controller can set."""
SCHEDULES = CONSTANT, COSINE = ("constant", "cosine")
SINGLE, FIRST = "single", "first"
BALANCED_OF = ("", SINGLE, FIRST)
BALANCED_OVER = STEP, TOGETHER = ("step", "together")
SHARES = EVEN, BALANCED, BY_LENGTH = ("even", "balanced", "length")
HEADERS = KEEP, STRIP = ("keep", "strip")
BYTE = "byte"


@dataclass(frozen=True)
class TrainingSettings:
    """A training of a small model whose feed-forward layers are experts. Tokens, texts and pairs are its samples."""

    task: str
    """lm, classify or translate."""
    corpus: tuple[str, ...]
    """The files to learn from. lm: texts. classify: one table, or a file of texts for each class. translate: source
    and target, a sentence a line."""
    out: str
    """The folder that the result is written to."""
    steps: int
    valid: tuple[str, ...] = ()
    """As ``corpus``, to be measured on while training; a share of the corpus where empty."""
    test: tuple[str, ...] = ()
    """As ``corpus``, to be measured on at the end; a share of the corpus where empty."""
    valid_share: float = 0.05
    test_share: float = 0.05
    split_seed: int = 0
    """Of which rows go aside, where no files are given: apart from ``seed``, so that seeds are measured alike."""
    encoding: str = "utf-8"
    """Of all files."""
    header: str = STRIP
    """lm: whether what Project Gutenberg puts before and behind a book is stripped, or kept."""
    text_column: str = ""
    """classify: the name of a column, or its number from 1 where a table has no header; found out where empty."""
    label_column: str = ""
    tokenizer: str = BYTE
    """byte, or bpe:N for N tokens learnt from the training part."""
    length: int = 128
    """Tokens of a sample, at most; a window of running text has just so many."""
    gate: str = "adaptive"
    threshold: float = 0.1
    """adaptive: a further expert is taken while R_1 - R_m is at most that."""
    reading: str = "softmax"
    weights: str = "sum_to_one"
    most: int = 2
    """Experts of a token, at most; a dense layer does as much work."""
    p: float = 0.4
    """top_p and controlled_top_p: the probability that a token's experts are to have together."""
    nulls: int = 8
    """null: experts that do nothing."""
    mean_experts: tuple[float, ...] = (1.25,)
    """controlled_top_p, random2, expert_choice: experts of a token, in the mean; one number, or one for each layer."""
    target_experts: tuple[float, ...] = ()
    """Thresholds follow a mean of so many experts per token: one number over all layers, or one for each."""
    budget_flops: float | None = None
    """Thresholds follow so many FLOPs per token, forward, all of the model."""
    budget_bytes: float | None = None
    """Thresholds follow so many bytes per token that experts exchange, forward, all layers."""
    assignment_bytes: int = 0
    """What one token sends for one expert; a row of float32 there and back where 0."""
    controller: str = "quantile"
    """How thresholds follow: quantile, or pi."""
    width: int = 128
    inner: int = 224
    """Of an expert."""
    layers: int = 4
    heads: int = 4
    kv_heads: int = 0
    """Heads of keys and values; as many as ``heads`` where 0."""
    experts: int = 8
    batch: int = 16
    """Samples of a step, all workers together."""
    micro_batch: int | None = None
    """Samples that a worker computes at once; all of its share where None."""
    order: str = RANDOM
    """Which samples are trained on together, from the second epoch on: random; those that needed about as many experts
    in the epoch before (cosine or mean), or are predicted to cost as much (cost); or, from the first one on, are about
    as long (length)."""
    buckets: int = 1
    """Of samples of alike length: only samples of one come together; 1 for no regard to length."""
    frozen: bool = False
    """Whether steps come from simple to complex, bucket by bucket, as the order has them; shuffled else."""
    shares: str = EVEN
    """even: every worker gets as many samples of a step; balanced: those with which all have as much to do, by their
    recorded routing; length: those with which all have as many tokens."""
    rate: float = 2e-3
    """AdamW's, after ``warm_up`` steps."""
    warm_up: int = 50
    """Steps in which the rate rises to its full height."""
    schedule: str = CONSTANT
    """constant, or cosine: down to 0 along half a cosine."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """The largest norm of a step's gradient; 0 for any."""
    balance: float = 0.01
    """How much the load-balance loss counts."""
    balance_of: str = ""
    """Whose experts are counted for it: tokens with a single expert (``single``), or the first choice of all tokens
    (``first``). ``single`` for an adaptive gate where empty, else ``first``."""
    balance_over: str = STEP
    """Where the share of each expert is counted: over all workers' tokens of the step before (``step``), so that the
    step is the same however it is split; or over the tokens that are computed together."""
    validate_every: int = 50
    """Steps between two points of the validation curve."""
    validate_on: int = 0
    """Samples of a point; all that are set aside where 0."""
    seed: int | None = None
    """Of weights and order; that of the set-up where None."""

    @property
    def balanced_of(self) -> str:
        """``balance_of``, found out."""
        return self.balance_of or (SINGLE if self.gate == ADAPTIVE else FIRST)

    def shape(self, vocabulary: int, classes: int = 0) -> ModelShape:
        """Of the model."""
        return ModelShape(
            vocabulary=vocabulary,
            width=self.width,
            inner=self.inner,
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.kv_heads or self.heads,
            experts=0 if self.gate == DENSE else self.experts,
            active=self.most,
            classes=classes,
        )

    def gate_settings(self) -> dict[str, Json]:
        """What makes its gates."""
        return {name: value for name, value in self.told().items() if name in GATE_SETTINGS}

    def told(self) -> dict[str, Json]:
        """Its fields as JSON gives them back."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


TASK_DEFAULTS: Mapping[str, Mapping[str, Json]] = {
    LM: {"validate_on": 128},
    CLASSIFY: {"tokenizer": "bpe:4000", "length": 64, "inner": 208, "batch": 32, "rate": 1e-3, "validate_every": 40},
    TRANSLATE: {"tokenizer": "bpe:2000", "length": 64, "batch": 48, "inner": 320, "layers": 6, "validate_on": 500},
}
"""What is taken for a task where nothing is said: its experts do 60 to 70 % of a top-2 step's work."""


def read_settings(values: Mapping[str, Json]) -> TrainingSettings:
    """Raises BadInputError naming the setting that is missing, unknown or out of range."""
    known = {field.name: field.default for field in fields(TrainingSettings)}
    if unknown := sorted(set(values) - set(known)):
        raise BadInputError("is not a setting", where=f"{WHERE}: {unknown[0]}", hint=f"known: {', '.join(known)}")
    given = Fields(values, {}, WHERE)
    for name in ("task", "corpus", "out", "steps"):
        if given.get(name) is None:
            raise given.error(name, "is missing")
    if "gate" in values and values["gate"] is None:  # what YAML and JSON make of null, as the gate is called
        raise given.error("gate", 'is nothing: the gate with null experts is "null", in quotes (or --gate null)')
    task = _one_of(given, "task", TASKS)
    defaults = {name: value for name, value in known.items() if name not in ("task", "corpus", "out", "steps")}
    it = Fields({name: v for name, v in values.items() if v is not None}, {**defaults, **TASK_DEFAULTS[task]}, WHERE)
    settings = TrainingSettings(
        task=task,
        corpus=_paths(it, "corpus"),
        out=_path(it, "out"),
        steps=it.size("steps"),
        valid=_paths(it, "valid"),
        test=_paths(it, "test"),
        valid_share=_between(it, "valid_share", 0, 0.5),
        test_share=_between(it, "test_share", 0, 0.5),
        split_seed=_whole(it, "split_seed"),
        encoding=it.text("encoding"),
        header=_one_of(it, "header", HEADERS),
        text_column=_column(it, "text_column"),
        label_column=_column(it, "label_column"),
        tokenizer=it.text("tokenizer"),
        length=it.size("length", 1 << 16),
        gate=_one_of(it, "gate", GATES),
        threshold=it.number("threshold"),
        reading=_one_of(it, "reading", READINGS),
        weights=_one_of(it, "weights", WEIGHTS),
        most=it.size("most", 1 << 12),
        p=_between(it, "p", 0, 1),
        nulls=_whole(it, "nulls"),
        mean_experts=_means(it),
        target_experts=_targets(it),
        budget_flops=None if it.get("budget_flops") is None else _above(it, "budget_flops"),
        budget_bytes=None if it.get("budget_bytes") is None else _above(it, "budget_bytes"),
        assignment_bytes=_whole(it, "assignment_bytes"),
        controller=_one_of(it, "controller", METHODS),
        width=it.size("width", 1 << 16),
        inner=it.size("inner", 1 << 18),
        layers=it.size("layers", 1 << 10),
        heads=it.size("heads", 1 << 10),
        kv_heads=_whole(it, "kv_heads"),
        experts=it.size("experts", 1 << 12),
        batch=it.size("batch"),
        micro_batch=it.optional_size("micro_batch"),
        order=_one_of(it, "order", ORDERS),
        buckets=it.size("buckets", 1 << 20),
        frozen=_flag(it, "frozen"),
        shares=_one_of(it, "shares", SHARES),
        rate=_above(it, "rate"),
        warm_up=_whole(it, "warm_up"),
        schedule=_one_of(it, "schedule", SCHEDULES),
        weight_decay=_not_below(it, "weight_decay"),
        clip=_not_below(it, "clip"),
        balance=_not_below(it, "balance"),
        balance_of=_one_of(it, "balance_of", BALANCED_OF),
        balance_over=_one_of(it, "balance_over", BALANCED_OVER),
        validate_every=it.size("validate_every"),
        validate_on=_whole(it, "validate_on"),
        seed=None if it.get("seed") is None else _whole(it, "seed"),
    )
    _require_fit(settings, it)
    return settings


def _require_fit(settings: TrainingSettings, it: Fields) -> None:
    """What only several settings together can have wrong."""
    if settings.width % settings.heads or settings.width // settings.heads % 2:
        raise it.error("heads", f"{settings.heads} heads of an even width cannot have {settings.width} together")
    if settings.kv_heads and settings.heads % settings.kv_heads:
        raise it.error("kv_heads", f"{settings.heads} heads cannot share {settings.kv_heads}")
    if settings.gate == DENSE and settings.order not in UNLEARNT:
        raise it.error("order", f"{settings.order} goes by experts, and a dense model has none")
    if settings.gate != DENSE and settings.most > settings.experts:
        raise it.error("most", f"{settings.most} is above the number of experts, {settings.experts}")
    if settings.task == TRANSLATE and settings.layers % 2:
        raise it.error("layers", f"{settings.layers} cannot be halved between encoder and decoder")
    if len(settings.mean_experts) not in (1, settings.layers):
        raise it.error("mean_experts", f"needs one number, or one for each of {settings.layers} layers")
    if settings.gate == "random2" and not all(1 <= one <= 2 for one in settings.mean_experts):
        raise it.error("mean_experts", "must be from 1 to 2: a second expert is what is random")
    if settings.gate in ("top2", "random2") and settings.experts < 2:
        raise it.error("experts", f"{settings.gate} needs two")
    if not settings.corpus:
        raise it.error("corpus", "names no file")
    pair = 2 if settings.task == TRANSLATE else None
    for name, paths in (("corpus", settings.corpus), ("valid", settings.valid), ("test", settings.test)):
        if pair and paths and len(paths) != pair:
            raise it.error(name, f"needs a source and a target, not {len(paths)} file{'s' * (len(paths) != 1)}")
    tokenizer_size(settings.tokenizer)
    _require_one_budget(settings, it)


def _require_one_budget(settings: TrainingSettings, it: Fields) -> None:
    """What controls thresholds is one thing, of a gate that has one."""
    asked = {"target_experts": settings.target_experts != (), "budget_flops": settings.budget_flops is not None,
             "budget_bytes": settings.budget_bytes is not None}  # fmt: skip
    given = [name for name, there in asked.items() if there]
    if len(given) > 1:
        raise it.error(given[1], f"there is {given[0]} too: only one of them can be followed")
    if given and settings.gate not in STEERED:
        raise it.error(given[0], f"gate {settings.gate} has no threshold to follow it: {' and '.join(STEERED)} have")
    if len(settings.target_experts) not in (0, 1, settings.layers):
        what = f"{len(settings.target_experts)} numbers for {settings.layers} layers"
        raise it.error("target_experts", what)


def tokenizer_size(told: str) -> int | None:
    """How many tokens ``bpe:N`` has; None for ``byte``. Raises BadInputError."""
    kind, _, count = told.partition(":")
    if told == BYTE:
        return None
    if kind != "bpe" or not count.isascii() or not count.isdigit() or not 300 <= int(count[:9]) <= 1_000_000:
        what = f"{told[:40]!r} is no tokenizer"
        raise BadInputError(what, where=f"{WHERE}: tokenizer", hint="byte, or bpe:N with N from 300 to 1000000")
    return int(count)


def _path(it: Fields, name: str) -> str:
    if not (text := it.text(name)) or "\0" in text:
        raise it.error(name, "is no name of anything")
    return text


def _column(it: Fields, name: str) -> str:
    """YAML and the command line give a number as one."""
    value = it.get(name)
    return str(value) if type(value) is int else it.text(name)


def _paths(it: Fields, name: str) -> tuple[str, ...]:
    value = it.get(name)
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or not all(
        isinstance(one, str) and one and "\0" not in one for one in given
    ):
        raise it.error(name, "must be the name of a file, or a list of names")
    return tuple(str(one) for one in given)


def _targets(it: Fields) -> tuple[float, ...]:
    value = it.get("target_experts")
    given = list(value) if isinstance(value, list | tuple) else [value]
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in given):
        raise it.error("target_experts", "must be a number, or one for each layer")
    return tuple(float(one) for one in given if isinstance(one, int | float))


def _one_of(it: Fields, name: str, known: tuple[str, ...]) -> str:
    text = it.text(name)
    if text not in known:
        raise it.error(name, f"{text[:40]!r} is not one of {', '.join(known)}")
    return text


def _whole(it: Fields, name: str) -> int:
    value = it.get(name)
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise it.error(name, f"must be a whole number that is not negative, not {str(value)[:40]}")
    return value


def _flag(it: Fields, name: str) -> bool:
    value = it.get(name)
    if not isinstance(value, bool):
        raise it.error(name, f"must be true or false, not {str(value)[:40]}")
    return value


def _above(it: Fields, name: str) -> float:
    if (value := it.number(name)) <= 0:
        raise it.error(name, f"{value:g} is not above 0")
    return value


def _not_below(it: Fields, name: str) -> float:
    if (value := it.number(name)) < 0:
        raise it.error(name, f"{value:g} is below 0")
    return value


def _means(it: Fields) -> tuple[float, ...]:
    value = it.get("mean_experts")
    given = value if isinstance(value, list | tuple) else [value]
    return tuple(_between(Fields({"mean_experts": one}, {}, it.where), "mean_experts", 0, 1 << 12) for one in given)


def _between(it: Fields, name: str, least: float, most: float) -> float:
    if not least < (value := it.number(name)) <= most:
        raise it.error(name, f"{value:g} is not above {least:g} and at most {most:g}")
    return value
