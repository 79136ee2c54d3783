"""What a fine-tuning is asked for, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json
from quiltwork.zoo.config import Fields

WHERE = "config"
"""What errors call it: ``config: rate: must be a number``."""
FULL, LORA = "full", "lora"
ALL_LINEAR = "all-linear"

_DEFAULTS: dict[str, Json] = {
    "method": FULL, "window": 128, "batch": 8, "weight_decay": 0.01, "warmup": 0, "clip": 1.0, "held_out": 0.1,
    "dtype": "float32", "rank": 8, "alpha": 16.0, "targets": ALL_LINEAR,
}  # fmt: skip
_RATES = {FULL: 1e-4, LORA: 1e-3}
_ONLY_LORA = ("rank", "alpha", "targets")
_KNOWN = ("model", "zoo", "name", "text", "out", "steps", "rate", "micro_batch", *_DEFAULTS)


@dataclass(frozen=True)
class FineTuning:
    """A fine-tuning, as its user describes it."""

    text: str
    """The file to learn from."""
    out: str
    """The folder that the result is written to: a Hugging Face checkpoint, or a PEFT adapter."""
    steps: int
    model: str | None = None
    """A Hugging Face checkpoint's folder; or else ``name``, a model of ``zoo``."""
    zoo: str | None = None
    name: str | None = None
    method: str = FULL
    """``full``: all weights are trained. ``lora``: low-rank updates of ``targets``."""
    rank: int = 8
    alpha: float = 16.0
    """An update counts ``alpha / rank`` times."""
    targets: str | tuple[str, ...] = ALL_LINEAR
    """The ends of the names of the projections that get an update, or ``all-linear``."""
    window: int = 128
    """Tokens of a sample."""
    batch: int = 8
    """Samples of a step, all workers together."""
    micro_batch: int | None = None
    """Samples that a worker computes at once; all of its share where None."""
    rate: float = 1e-4
    """AdamW's learning rate after ``warmup`` steps; it falls to 0 along a half cosine."""
    weight_decay: float = 0.01
    """Of matrices; norms and biases do not decay."""
    warmup: int = 0
    clip: float = 1.0
    """The largest norm of a step's gradient; 0 for any."""
    held_out: float = 0.1
    """Share of the text, at its end, that is only measured on."""
    dtype: str = "float32"
    """What is computed in; weights and moments are float32."""


def read_config(values: Mapping[str, Json]) -> FineTuning:
    """Raises BadInputError naming the field that is missing, unknown or out of range."""
    fields = Fields(values, _DEFAULTS, WHERE)
    if unknown := sorted(set(values) - set(_KNOWN)):
        raise BadInputError("is not a setting", where=f"{WHERE}: {unknown[0]}", hint=f"known: {', '.join(_KNOWN)}")
    for name in ("text", "out", "steps"):
        if fields.get(name) is None:
            raise fields.error(name, "is missing")
    model, zoo, called = (_path(fields, one) for one in ("model", "zoo", "name"))
    if (model is None) == (zoo is None and called is None):
        raise fields.error("model", "needs a checkpoint's folder, or else `zoo` and `name`")
    if model is None and (zoo is None or called is None):
        lacking = "zoo" if zoo is None else "name"
        raise fields.error(lacking, "is missing: a model of a zoo has both `zoo` and `name`")
    method = fields.one_of("method", (FULL, LORA))
    if method != LORA and (given := [one for one in _ONLY_LORA if one in values]):
        raise fields.error(given[0], f"is for method {LORA}, and the method is {method}")
    steps, warmup = fields.size("steps"), fields.whole("warmup")
    if warmup >= steps:
        raise fields.error("warmup", f"{warmup} is not less than steps, {steps}")
    return FineTuning(
        text=fields.text("text"),
        out=fields.text("out"),
        steps=steps,
        model=model,
        zoo=zoo,
        name=called,
        method=method,
        rank=fields.size("rank"),
        alpha=_between(fields, "alpha", 0, open_below=True),
        targets=_targets(fields),
        window=fields.size("window"),
        batch=fields.size("batch"),
        micro_batch=fields.optional_size("micro_batch"),
        rate=_between(fields, "rate", 0, open_below=True) if "rate" in values else _RATES[method],
        weight_decay=_between(fields, "weight_decay", 0),
        warmup=warmup,
        clip=_between(fields, "clip", 0),
        held_out=_held_out(fields),
        dtype=fields.one_of("dtype", ("float32", "bfloat16")),
    )


def _path(fields: Fields, name: str) -> str | None:
    if fields.get(name) is None:
        return None
    if not (text := fields.text(name)) or "\0" in text:
        raise fields.error(name, "is no name of anything")
    return text


def _between(fields: Fields, name: str, least: float, *, open_below: bool = False) -> float:
    value = fields.number(name)
    if value < least or (open_below and value == least):
        raise fields.error(name, f"{value:g} is not {'above' if open_below else 'at least'} {least:g}")
    return value


def _held_out(fields: Fields) -> float:
    share = _between(fields, "held_out", 0, open_below=True)
    if share >= 1:
        raise fields.error("held_out", f"{share:g} of the text leaves nothing to learn from")
    return share


def _targets(fields: Fields) -> str | tuple[str, ...]:
    value = fields.get("targets")
    if value == ALL_LINEAR:
        return ALL_LINEAR
    if not isinstance(value, list) or not value or not all(isinstance(one, str) and one for one in value):
        raise fields.error("targets", f"must be a list of projections' names, or {ALL_LINEAR!r}")
    return tuple(dict.fromkeys(value))
