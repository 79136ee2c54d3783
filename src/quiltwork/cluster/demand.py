"""How many of its servers inference needs, over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quiltwork.cluster.job_trace import Floats
from quiltwork.core.errors import BadInputError
from quiltwork.core.rows import csv_blocks, csv_header

_SHARE = "_frac"
_EXTENSION = "is_extension"


@dataclass(frozen=True, eq=False)
class Demand:
    """The share of the inference servers that is needed, from each time until the next: (n,) each."""

    t_s: Floats
    """Seconds, rising."""
    share: Floats
    """0 to 1."""
    extended: npt.NDArray[np.bool_]
    """Where the series repeats itself to be long enough: nothing may be scored there."""

    def __len__(self) -> int:
        return len(self.t_s)

    @property
    def step_s(self) -> float:
        """Seconds between two times. Raises BadInputError where they are not evenly spaced."""
        steps = np.diff(self.t_s)
        if not len(steps) or not np.allclose(steps, steps[0]):
            raise BadInputError("has times that are not evenly spaced", where="demand")
        return float(steps[0])

    def at(self, t_s: float) -> float:
        """The share at a time; before the first it is the first, after the last the last."""
        return float(self.share[max(int(np.searchsorted(self.t_s, t_s, side="right")) - 1, 0)])

    def servers(self, fleet: int) -> npt.NDArray[np.int64]:
        """The number of servers needed of a fleet of so many: shares rounded up, to within a millionth."""
        return np.ceil(self.share * fleet - 1e-6).astype(np.int64)

    def before(self, count: int) -> Demand:
        """The first ``count`` times."""
        return replace(self, t_s=self.t_s[:count], share=self.share[:count], extended=self.extended[:count])


def read_demand(path: str | Path, column: str, *, fleet: int | None = None) -> Demand:
    """A demand series, ``.csv`` or ``.csv.gz``: a column ``t_s`` and one of shares; perhaps ``is_extension``, 0 or 1.

    column : with or without ``_frac`` at its end.
    fleet : the column counts servers, of a fleet of so many.

    Raises BadInputError naming the file, the line and the field, also where the fleet is less than what is needed.
    """
    where = Path(path)
    header = csv_header(where)
    name = f"{column}{_SHARE}" if fleet is None and f"{column}{_SHARE}" in header else column
    names = ("t_s", name, *([_EXTENSION] if _EXTENSION in header else []))
    numbers: list[int] = []
    texts: dict[str, list[str]] = {name: [] for name in names}
    for block in csv_blocks(where, names):
        numbers.extend(block.numbers)
        for each in names:
            texts[each].extend(block.columns[each])
    if not numbers:
        raise BadInputError("has no times", where=str(where))
    t_s = _floats(where, "t_s", texts["t_s"], numbers)
    share = _floats(where, name, texts[name], numbers)
    stuck = np.concatenate(([False], np.diff(t_s) <= 0))
    _refuse(where, "t_s", stuck, texts["t_s"], numbers, "is no later than the time above it")
    _refuse(where, name, share < 0, texts[name], numbers, "is less than nothing")
    most = 1 if fleet is None else fleet
    whole = "the whole fleet, 1" if fleet is None else f"the fleet of {fleet}"
    _refuse(where, name, share > most, texts[name], numbers, f"is more than {whole}")
    flags = texts.get(_EXTENSION, ["0"] * len(numbers))
    odd = np.array([flag.strip() not in ("0", "1") for flag in flags])
    _refuse(where, _EXTENSION, odd, flags, numbers, "is neither 0 nor 1")
    return Demand(t_s, share / most, np.array([flag.strip() == "1" for flag in flags]))


def _floats(path: Path, name: str, texts: Sequence[str], numbers: Sequence[int]) -> Floats:
    values = np.full(len(texts), np.nan)
    for index, text in enumerate(texts):
        try:
            values[index] = float(text)
        except ValueError:
            break
    _refuse(path, name, ~np.isfinite(values), texts, numbers, "is not a number")
    return values


def _refuse(
    path: Path, name: str, wrong: npt.NDArray[np.bool_], texts: Sequence[str], numbers: Sequence[int], said: str
) -> None:
    if wrong.any():
        first = int(np.argmax(wrong))
        where = f"{path}: line {numbers[first]}: {name}"
        raise BadInputError(f"{texts[first].strip()[:40]!r} {said}", where=where)
