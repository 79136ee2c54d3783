"""A run's outcome on disk: one JSON file for each claim, with every sample and the circumstances."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from quiltwork.core.bench.claim import Claim, Outcome, Reach, judge
from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json

SCHEMA = 1
_CIRCUMSTANCES: dict[str, type] = {
    "started": str,
    "seconds": float,
    "seed": int,
    "command": str,
    "machine": dict,
    "versions": dict,
    "load": dict,
    "git": dict,
}


@dataclass(frozen=True)
class Record:
    """What was claimed, what was found, and the circumstances."""

    claim: Claim
    outcome: Outcome
    quick: bool
    started: str
    """ISO 8601, UTC."""
    seconds: float
    """How long the run took, all its claims together."""
    seed: int
    command: str
    machine: Mapping[str, Json]
    versions: Mapping[str, Json]
    load: Mapping[str, Json]
    git: Mapping[str, Json]

    def document(self) -> dict[str, Json]:
        """As JSON. Ratio, interval and verdict are there to be read; ``read`` finds them again from the samples."""
        verdict = judge(self.claim, self.outcome)
        return {
            "schema": SCHEMA,
            "claim": asdict(self.claim),
            "quick": self.quick,
            "ratio": verdict.ratio,
            "interval": [verdict.interval.low, verdict.interval.high],
            "met": verdict.met,
            "why": verdict.why,
            "outcome": {
                "ours": list(self.outcome.ours),
                "baseline": list(self.outcome.baseline),
                "answers_equal": self.outcome.answers_equal,
                "details": dict(self.outcome.details),
                "rows": [dict(row) for row in self.outcome.rows],
            },
            **{name: getattr(self, name) for name in _CIRCUMSTANCES},
        }


def path_of(records: Path, claim: str) -> Path:
    """Where the record of a claim is kept."""
    return records / f"{claim}.json"


def write(records: Path, record: Record) -> Path:
    """Put the record in the place of the claim's last one. Raises BadInputError for a quick run or values not JSON."""
    if record.quick:
        raise BadInputError("a quick run is not kept: it would stand for the full one", where=record.claim.name)
    try:
        text = json.dumps(record.document(), indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadInputError(f"details or rows are not JSON: {error}", where=record.claim.name) from error
    records.mkdir(parents=True, exist_ok=True)
    path = path_of(records, record.claim.name)
    handle, temporary = tempfile.mkstemp(dir=records, prefix=f".{record.claim.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


def read(path: Path) -> Record:
    """The record in a file. Raises BadInputError naming the file and the field that is wrong."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"cannot be read: {error}", where=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"is not JSON: {error}", where=str(path)) from error
    fields = _Fields(document, str(path))
    if fields.take("schema", int) != SCHEMA:
        raise BadInputError(f"is not of schema {SCHEMA}", where=f"{path}: schema")
    try:
        record = Record(
            claim=_claim(_Fields(fields.take("claim", dict), f"{path}: claim")),
            outcome=_outcome(_Fields(fields.take("outcome", dict), f"{path}: outcome")),
            quick=fields.take("quick", bool),
            **{name: fields.take(name, kind) for name, kind in _CIRCUMSTANCES.items()},
        )
        judge(record.claim, record.outcome)
    except BadInputError as error:
        if error.where is not None and error.where.startswith(str(path)):
            raise
        raise BadInputError(str(error), where=str(path)) from error
    return record


class _Fields:
    """A JSON object whose fields are checked as they are taken."""

    def __init__(self, document: Json, where: str) -> None:
        if not isinstance(document, dict):
            raise BadInputError("is not an object", where=where)
        self._document, self._where = document, where

    def take(self, name: str, kind: type) -> Json:
        """A field of the given type; whole numbers count as floats, bools not as numbers."""
        where = f"{self._where}: {name}"
        if name not in self._document:
            raise BadInputError("is missing", where=where)
        value = self._document[name]
        accepted = (int, float) if kind is float else (kind,)
        if not isinstance(value, accepted) or (kind is not bool and isinstance(value, bool)):
            raise BadInputError(f"is not of type {kind.__name__}", where=where)
        if isinstance(value, float) and not math.isfinite(value):
            raise BadInputError("is not a finite number", where=where)
        return value

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of numbers."""
        values = self.take(name, list)
        if any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
            raise BadInputError("is not a list of numbers", where=f"{self._where}: {name}")
        return tuple(values)

    def verdict(self, name: str) -> bool | None:
        """True, false or null."""
        return None if self._document.get(name, 0) is None else bool(self.take(name, bool))


def _claim(fields: _Fields) -> Claim:
    reach = _Fields(fields.take("reach", dict), "claim: reach")
    words = {name: fields.take(name, str) for name in ("name", "room", "title", "ratio", "unit")}
    return Claim(
        **words, reach=Reach(reach.take("at", str), reach.take("value", float)), parity=fields.take("parity", bool)
    )


def _outcome(fields: _Fields) -> Outcome:
    rows = fields.take("rows", list)
    if not all(isinstance(row, dict) for row in rows):
        raise BadInputError("is not a list of objects", where="rows")
    return Outcome(
        ours=fields.numbers("ours"),
        baseline=fields.numbers("baseline"),
        answers_equal=fields.verdict("answers_equal"),
        details=fields.take("details", dict),
        rows=tuple(rows),
    )
