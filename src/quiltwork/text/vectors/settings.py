"""What a training of word vectors is asked for, checked before anything is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quiltwork.core.servable import Json
from quiltwork.text.vectors.learner import Kind, kind_named
from quiltwork.zoo.config import Fields

WHERE = "config"
"""What errors call it: ``config: rate: must be a number``."""
MOST_EPOCHS = 10_000

_DEFAULTS: dict[str, Json] = {
    "model": "fasttext", "split": False, "words": 1.0, "min_count": 5, "epochs": 3, "rate": 0.025, "last_rate": 1e-4,
    "step_tokens": 200_000,
}  # fmt: skip
_NEEDED = ("corpus", "out")


@dataclass(frozen=True)
class Settings:
    """What every kind of model has to be told."""

    corpus: tuple[Path, ...]
    """Files and folders, as ``read_corpus`` takes them."""
    out: Path
    """The folder that the model is written to."""
    model: str
    """One of ``KINDS``."""
    split: bool
    """Whether sentences are to be found in running text."""
    words: float
    """How much of the corpus: at most 1, a share; else how many tokens. Whole documents, drawn by the seed."""
    min_count: int
    """Words that occur less often are not learnt."""
    epochs: int
    rate: float
    """Learning rate at the start; it falls in a straight line to ``last_rate``."""
    last_rate: float
    step_tokens: int
    """Tokens of a step, about."""
    tokens: Path | None
    """A folder in which the corpus cut into tokens is kept from one run to the next."""
    kind: Kind
    fields: Fields
    """With what the kind itself can be told."""

    def told(self) -> dict[str, Json]:
        """What was asked for, as JSON, without places."""
        names = (*_DEFAULTS, *self.kind.settings)
        return {name: self.fields.get(name) for name in names}


def read_settings(values: Mapping[str, Json]) -> Settings:
    """Raises BadInputError naming the field that is missing, unknown or out of range."""
    kind = kind_named(Fields(values, _DEFAULTS, WHERE).text("model"))
    defaults = {**_DEFAULTS, **kind.defaults, **kind.settings}
    fields = Fields(values, defaults, WHERE)
    known = (*_NEEDED, "tokens", *defaults)
    if unknown := sorted(set(values) - set(known)):
        what = f"is not a setting of {fields.text('model')}"
        error = fields.error(unknown[0], what)
        error.hint = f"known: {', '.join(known)}"
        raise error
    words, rate, last_rate = (_positive(fields, name) for name in ("words", "rate", "last_rate"))
    if last_rate > rate:
        raise fields.error("last_rate", f"{last_rate:g} is more than rate, {rate:g}")
    return Settings(
        corpus=_paths(fields),
        out=Path(_path(fields, "out")),
        model=fields.text("model"),
        split=fields.flag("split"),
        words=words,
        min_count=fields.size("min_count"),
        epochs=fields.size("epochs", MOST_EPOCHS),
        rate=rate,
        last_rate=last_rate,
        step_tokens=fields.size("step_tokens"),
        tokens=None if fields.get("tokens") is None else Path(_path(fields, "tokens")),
        kind=kind,
        fields=fields,
    )


def _paths(fields: Fields) -> tuple[Path, ...]:
    value = fields.get("corpus")
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed or not all(isinstance(one, str) and one for one in listed):
        raise fields.error("corpus", "must be a file or a folder, or a list of them")
    return tuple(Path(str(one)) for one in listed)


def _path(fields: Fields, name: str) -> str:
    if fields.get(name) is None:
        raise fields.error(name, "is missing")
    if not (text := fields.text(name)) or "\0" in text:
        raise fields.error(name, "is no name of anything")
    return text


def _positive(fields: Fields, name: str) -> float:
    value = fields.number(name)
    if value <= 0:
        raise fields.error(name, f"{value:g} is not above 0")
    return value
