"""What every executed batch held, for operators: a JSON line each."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from os import strerror
from pathlib import Path

from quiltwork.core.errors import BadInputError
from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Json
from quiltwork.serving.route import Segment
from quiltwork.zoo.segments import segment_id

log = logging.getLogger("quiltwork.serving")


@dataclass(frozen=True)
class Executed:
    """One batch that went through a segment."""

    segment: str
    """Its id."""
    first: str
    """Name of its first link."""
    last: str
    blocks: int
    rows: int
    sequences: Mapping[str, int]
    """By model."""
    agent: str = ""
    """Who ran it, where several could."""
    before_s: float = 0.0
    """How long ago."""


class BatchLog:
    """Appends a line per batch to a file: time, segment, rows, sequences by model, the agent where there are several.

    path : of the file. Raises BadInputError where it cannot be written.
    wall_clock : seconds since 1970.

    A disk that fills up ends the log and not what is being served. One thread at a time may write.
    """

    def __init__(self, path: Path, wall_clock: Callable[[], float]) -> None:
        self._path, self._wall_clock = path, wall_clock
        try:
            self._file = path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise BadInputError(f"cannot be written: {strerror(error.errno or 0)}", where=str(path)) from error
        self._failed = False

    def write(self, segment: Segment, models: Iterable[ModelRef], rows: int) -> None:
        """One batch went through ``segment``: the model of each of its sequences, and all their rows."""
        links = segment.links
        sequences = {str(ref): count for ref, count in sorted(Counter(models).items())}
        self.append([Executed(segment_id(segment.key), links[0].name, links[-1].name, len(links), rows, sequences)])

    def append(self, batches: Iterable[Executed]) -> None:
        """These batches were executed."""
        now = self._wall_clock()
        self._put(_line(batch, now) for batch in batches)

    def left_out(self, agent: str, count: int) -> None:
        """An agent ran more batches than it could tell of: as many are missing here."""
        self._put([{"time": round(self._wall_clock(), 6), "agent": agent, "left_out": count}])

    def _put(self, lines: Iterable[Mapping[str, Json]]) -> None:
        if self._failed or self._file.closed:
            return
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
        try:
            self._file.write(text)
        except OSError as error:
            self._failed = True
            log.warning("%s: no more batches are written: %s", self._path, strerror(error.errno or 0))

    def close(self) -> None:
        """Write what is left, and no more."""
        try:
            self._file.close()
        except OSError as error:
            log.warning("%s: the last batches are not written: %s", self._path, strerror(error.errno or 0))


def _line(batch: Executed, now: float) -> Mapping[str, Json]:
    line: dict[str, Json] = {"time": round(now - batch.before_s, 6)}
    if batch.agent:
        line["agent"] = batch.agent
    return {
        **line,
        "segment": batch.segment,
        "first": batch.first,
        "last": batch.last,
        "blocks": batch.blocks,
        "rows": batch.rows,
        "sequences": dict(batch.sequences),
    }
