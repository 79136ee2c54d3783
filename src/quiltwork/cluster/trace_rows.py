"""Rows on their way into a trace: blocks by column, each checked as it comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quiltwork.cluster.job_trace import Floats, Ints, JobTrace
from quiltwork.core.errors import BadInputError
from quiltwork.core.rows import Block

MOST_GPUS = 1_000_000
DRAWS = ("u_fungible", "u_elastic", "u_hetero", "u_ckpt")
"""Columns with a number of [0, 1) for each job, by which it is labelled."""
_DRAW = "u_"
_UNITS = {"s": 1.0, "ms": 1e-3}
_EPOCH = 10.0**8
"""Times of three years and more are dates in seconds since 1970."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a CSV file say what. Those of ``DRAWS`` are taken by their names."""

    id: str = "job_id"
    submit: str = "submit_s"
    """Numbers in ``unit``, or dates as ISO 8601 has them (UTC where they name no zone)."""
    gpus: str = "num_gpus"
    duration: str = "duration_s"
    """Numbers in ``unit``."""
    team: str | None = None
    unit: str = "s"
    """``s`` or ``ms``."""

    def __post_init__(self) -> None:
        if self.unit not in _UNITS:
            raise BadInputError(f"{self.unit!r} is neither s nor ms", where="columns: unit")

    @classmethod
    def parse(cls, text: str) -> Columns:
        """``id=JobID,submit=Start,gpus=GPUs,duration=Seconds,team=Group,unit=ms``; what is left out keeps its default.

        Raises BadInputError.
        """
        given: dict[str, str] = {}
        for part in text.split(","):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if name not in cls.__dataclass_fields__ or name in given or not equals or not value:
                known = ", ".join(cls.__dataclass_fields__)
                raise BadInputError(f"{part.strip()[:80]!r} names no column", where="columns", hint=f"known: {known}")
            given[name] = value
        return cls(**given)

    @property
    def needed(self) -> tuple[str, ...]:
        return (self.id, self.submit, self.gpus, self.duration, *([] if self.team is None else [self.team]))


class TraceRows:
    """Blocks of rows, each checked as it comes, and the trace that they make."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts: dict[str, list[npt.NDArray[Any]]] = {}
        self._teams: dict[str, int] = {}
        self.left_out: Counter[str] = Counter()
        self._dates = False

    def add_block(self, block: Block, columns: Columns, draws: Sequence[str]) -> None:
        def numbers(name: str, what: Callable[[Floats], npt.NDArray[np.bool_]], said: str) -> Floats:
            return self._numbers(block.columns[name], block.numbers, name, what, said)

        def ratio(name: str) -> Floats:
            return numbers(name, lambda values: (values >= 0) & (values < 1), "is not a number of [0, 1)")

        unit = _UNITS[columns.unit]
        gpus = numbers(columns.gpus, _whole_gpus, f"is not a whole number of GPUs from 1 to {MOST_GPUS:,}")
        length = numbers(columns.duration, _not_negative, "is not a length of time") * unit
        teams = block.columns[columns.team] if columns.team is not None else ("",) * len(block.numbers)
        drawn = {name.removeprefix(_DRAW): ratio(name) for name in draws}
        submit = self._submit(block, columns.submit, unit)
        self.add(block.columns[columns.id], submit, gpus, length, teams, block.numbers, columns.id, drawn)

    def add(
        self,
        ids: Sequence[str],
        submit: Floats,
        gpus: Floats,
        duration: Floats,
        teams: Sequence[str],
        numbers: Sequence[int],
        id_column: str,
        draws: Mapping[str, Floats] | None = None,
    ) -> None:
        ids = [text.strip() for text in ids]
        if "" in ids:
            raise BadInputError("is empty", where=self._at(numbers[ids.index("")], id_column))
        self._id_column = id_column
        index = self._teams
        columns: dict[str, npt.NDArray[Any]] = {
            "ids": np.array(ids, dtype=np.dtypes.StringDType()),
            # Equal ids have equal hashes: what is compared in full is only what agrees in these.
            "hashes": np.fromiter(map(hash, ids), np.int64, len(ids)),
            "numbers": np.array(numbers, dtype=np.int64),
            "submit": submit,
            "gpus": gpus.astype(np.int64),
            "duration": duration,
            "team": np.array([index.setdefault(team.strip(), len(index)) for team in teams], dtype=np.int32),
        }
        for name, values in (columns | {_DRAW + name: values for name, values in (draws or {}).items()}).items():
            self._parts.setdefault(name, []).append(values)

    def dates(self, texts: Sequence[str], numbers: Sequence[int], name: str) -> Floats:
        """Dates in seconds since 1970."""
        self._dates = True
        return np.array([date(text, self._at(n, name)) for text, n in zip(texts, numbers, strict=True)], dtype=float)

    def trace(self) -> JobTrace:
        columns = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        self._parts.clear()
        if not columns:
            raise BadInputError("has no jobs", where=str(self._path), hint=", ".join(self._left_out()) or None)
        self._alone(columns["ids"], columns.pop("hashes"), columns["numbers"])
        del columns["numbers"]
        notes = []
        late = int(np.count_nonzero(np.diff(columns["submit"]) < 0))
        if late:
            order = np.argsort(columns["submit"], kind="stable")
            columns = {name: values[order] for name, values in columns.items()}
            notes.append(f"{late:,} rows submitted before the row above them: sorted")
        ran = columns["duration"] > 0
        if not ran.all():
            self.left_out["jobs that ran for no time"] = int(np.count_nonzero(~ran))
            columns = {name: values[ran] for name, values in columns.items()}
        if not ran.any():
            raise BadInputError("has no jobs", where=str(self._path), hint=", ".join(self._left_out()) or None)
        submit = columns["submit"]
        dated = self._dates or submit[0] >= _EPOCH
        started = datetime.fromtimestamp(submit[0], UTC) if dated else None
        if dated:
            submit = submit - submit[0]
            notes.append(f"times are counted from {started:%Y-%m-%d %H:%M:%S}")
        return JobTrace(
            columns["ids"],
            submit,
            columns["gpus"],
            columns["duration"],
            tuple(self._teams),
            columns["team"],
            {name.removeprefix(_DRAW): values for name, values in columns.items() if name.startswith(_DRAW)},
            started,
            (*notes, *(f"left out: {text}" for text in self._left_out())),
        )

    def _left_out(self) -> list[str]:
        return [f"{count:,} {what}" for what, count in self.left_out.items()]

    def _submit(self, block: Block, name: str, unit: float) -> Floats:
        texts = block.columns[name]
        if not self._dates and is_number(texts[0]):
            return self._numbers(texts, block.numbers, name, _not_negative, "is not a time") * unit
        return self.dates(texts, block.numbers, name)

    def _numbers(
        self,
        texts: Sequence[str],
        numbers: Sequence[int],
        name: str,
        right: Callable[[Floats], npt.NDArray[np.bool_]],
        said: str,
    ) -> Floats:
        try:
            values = np.array(texts, dtype=np.float64)
        except ValueError:
            wrong = next(index for index, text in enumerate(texts) if not is_number(text))
        else:
            fine = right(values)
            if fine.all():
                return values
            wrong = int(np.argmin(fine))
        raise BadInputError(f"{texts[wrong].strip()[:40]!r} {said}", where=self._at(numbers[wrong], name))

    def _alone(self, ids: npt.NDArray[Any], hashes: Ints, numbers: Ints) -> None:
        order = np.argsort(hashes, kind="stable")
        seen: dict[str, int] = {}
        for first, second in zip(*_runs(hashes[order]), strict=True):
            seen.clear()
            for index in order[first:second]:
                before = seen.setdefault(str(ids[index]), int(index))
                if before != index:
                    what = f"{str(ids[index])[:80]!r} is also on line {numbers[before]}"
                    raise BadInputError(what, where=self._at(int(numbers[index]), self._id_column))

    def _at(self, number: int, name: str) -> str:
        return f"{self._path}: line {number}: {name}"


def _runs(ordered: Ints) -> tuple[Ints, Ints]:
    """Where equal neighbours begin and end, for each run of two or more."""
    edges = np.flatnonzero(np.diff(ordered)) + 1
    begins = np.concatenate(([0], edges))
    ends = np.concatenate((edges, [len(ordered)]))
    longer = ends - begins > 1
    return begins[longer], ends[longer]


def _whole_gpus(values: Floats) -> npt.NDArray[np.bool_]:
    whole: npt.NDArray[np.bool_] = np.equal(np.floor(values), values)
    return (values >= 1) & (values <= MOST_GPUS) & whole


def _not_negative(values: Floats) -> npt.NDArray[np.bool_]:
    return (values >= 0) & np.isfinite(values)


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def date(text: str, where: str) -> float:
    try:
        when = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise BadInputError(f"{text.strip()[:40]!r} is not a time", where=where) from error
    return (when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp()
