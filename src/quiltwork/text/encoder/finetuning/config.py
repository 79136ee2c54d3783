"""What a fine-tuning is asked for, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json
from quiltwork.zoo.config import Fields

WHERE = "config"
"""What errors call it: ``config: rate: must be a number``."""
_DEFAULTS: dict[str, Json] = {
    "a": "a", "b": "b", "score": "score", "least": 0.0, "most": 1.0, "batch": 16, "rate": 2e-5, "weight_decay": 0.01,
    "warmup": 0, "clip": 1.0, "held_out": 0.1,
}  # fmt: skip
_KNOWN = ("model", "pairs", "out", "steps", "micro_batch", *_DEFAULTS)


@dataclass(frozen=True)
class FineTuning:
    """A fine-tuning of an encoder on pairs of sentences that somebody has scored."""

    pairs: str
    """A table of them: CSV, TSV or Parquet."""
    out: str
    """The folder that the encoder is written to, as sentence-transformers writes it."""
    steps: int
    model: str | None = None
    """The folder of an encoder; all-MiniLM-L6-v2 where None."""
    a: str = "a"
    """The columns of the table."""
    b: str = "b"
    score: str = "score"
    least: float = 0.0
    """The score of sentences that have nothing in common: their cosine is to be 0."""
    most: float = 1.0
    """The score of sentences that say the same: their cosine is to be 1."""
    batch: int = 16
    """Pairs of a step, all workers together."""
    micro_batch: int | None = None
    """Pairs that a worker computes at once; all of its share where None."""
    rate: float = 2e-5
    """AdamW's learning rate after ``warmup`` steps; it falls to 0 along a straight line."""
    weight_decay: float = 0.01
    """Of matrices; norms and biases do not decay."""
    warmup: int = 0
    clip: float = 1.0
    """The largest norm of a step's gradient; 0 for any."""
    held_out: float = 0.1
    """Share of the pairs that is only measured on."""


def read_config(values: Mapping[str, Json]) -> FineTuning:
    """Raises BadInputError naming the field that is missing, unknown or out of range."""
    fields = Fields(values, _DEFAULTS, WHERE)
    if unknown := sorted(set(values) - set(_KNOWN)):
        raise BadInputError("is not a setting", where=f"{WHERE}: {unknown[0]}", hint=f"known: {', '.join(_KNOWN)}")
    for name in ("pairs", "out", "steps"):
        if fields.get(name) is None:
            raise fields.error(name, "is missing")
    steps, warmup = fields.size("steps"), fields.get("warmup")
    if type(warmup) is not int or not 0 <= warmup < steps:
        raise fields.error("warmup", f"must be a whole number of steps below {steps}, not {str(warmup)[:40]}")
    least, most = fields.number("least"), fields.number("most")
    if least >= most:
        raise fields.error("most", f"{most:g} is not above least, {least:g}")
    return FineTuning(
        pairs=_path(fields, "pairs"),
        out=_path(fields, "out"),
        steps=steps,
        model=None if fields.get("model") is None else _path(fields, "model"),
        a=fields.text("a"),
        b=fields.text("b"),
        score=fields.text("score"),
        least=least,
        most=most,
        batch=fields.size("batch"),
        micro_batch=fields.optional_size("micro_batch"),
        rate=fields.above("rate"),
        weight_decay=fields.not_below("weight_decay"),
        warmup=warmup,
        clip=fields.not_below("clip"),
        held_out=_share(fields),
    )


def _path(fields: Fields, name: str) -> str:
    if not (text := fields.text(name)) or "\0" in text:
        raise fields.error(name, "is no name of anything")
    return text


def _share(fields: Fields) -> float:
    if not 0 < (value := fields.number("held_out")) < 1:
        raise fields.error("held_out", f"{value:g} is no share between 0 and 1")
    return value
