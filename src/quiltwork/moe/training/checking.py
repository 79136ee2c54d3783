"""Settings as people write them, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json
from quiltwork.moe.control.controller import METHODS
from quiltwork.moe.curriculum.orders import ORDERS, UNLEARNT
from quiltwork.moe.gates import READINGS
from quiltwork.moe.models.build import TASKS, TRANSLATE
from quiltwork.moe.training.settings import (
    BALANCED_OF,
    BALANCED_OVER,
    DENSE,
    GATES,
    HEADERS,
    SCHEDULES,
    SHARES,
    STEERED,
    TASK_DEFAULTS,
    WHERE,
    TrainingSettings,
)
from quiltwork.moe.training.tokens import tokenizer_size
from quiltwork.moe.weights import WEIGHTS
from quiltwork.zoo.config import Fields

_LARGEST = 1 << 31
"""Above every seed, count and length of a setting."""


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
    task = given.one_of("task", TASKS)
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
        split_seed=it.whole("split_seed", _LARGEST),
        encoding=it.text("encoding"),
        header=it.one_of("header", HEADERS),
        text_column=_column(it, "text_column"),
        label_column=_column(it, "label_column"),
        tokenizer=it.text("tokenizer"),
        length=it.size("length", 1 << 16),
        gate=it.one_of("gate", GATES),
        threshold=it.number("threshold"),
        reading=it.one_of("reading", READINGS),
        weights=it.one_of("weights", WEIGHTS),
        most=it.size("most", 1 << 12),
        p=_between(it, "p", 0, 1),
        nulls=it.whole("nulls", _LARGEST),
        mean_experts=_means(it),
        target_experts=_targets(it),
        budget_flops=None if it.get("budget_flops") is None else it.above("budget_flops"),
        budget_bytes=None if it.get("budget_bytes") is None else it.above("budget_bytes"),
        assignment_bytes=it.whole("assignment_bytes", _LARGEST),
        controller=it.one_of("controller", METHODS),
        width=it.size("width", 1 << 16),
        inner=it.size("inner", 1 << 18),
        layers=it.size("layers", 1 << 10),
        heads=it.size("heads", 1 << 10),
        kv_heads=it.whole("kv_heads", _LARGEST),
        experts=it.size("experts", 1 << 12),
        batch=it.size("batch"),
        micro_batch=it.optional_size("micro_batch"),
        order=it.one_of("order", ORDERS),
        buckets=it.size("buckets", 1 << 20),
        frozen=it.flag("frozen"),
        shares=it.one_of("shares", SHARES),
        rate=it.above("rate"),
        warm_up=it.whole("warm_up", _LARGEST),
        schedule=it.one_of("schedule", SCHEDULES),
        weight_decay=it.not_below("weight_decay"),
        clip=it.not_below("clip"),
        balance=it.not_below("balance"),
        balance_of=it.one_of("balance_of", BALANCED_OF),
        balance_over=it.one_of("balance_over", BALANCED_OVER),
        validate_every=it.size("validate_every"),
        validate_on=it.whole("validate_on", _LARGEST),
        seed=None if it.get("seed") is None else it.whole("seed", _LARGEST),
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
    for name, paths in (("corpus", settings.corpus), ("valid", settings.valid), ("test", settings.test)):
        if settings.task == TRANSLATE and len(paths) not in (0, 2):
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


def _means(it: Fields) -> tuple[float, ...]:
    value = it.get("mean_experts")
    given = value if isinstance(value, list | tuple) else [value]
    return tuple(_between(Fields({"mean_experts": one}, {}, it.where), "mean_experts", 0, 1 << 12) for one in given)


def _between(it: Fields, name: str, least: float, most: float) -> float:
    if not least < (value := it.number(name)) <= most:
        raise it.error(name, f"{value:g} is not above {least:g} and at most {most:g}")
    return value
