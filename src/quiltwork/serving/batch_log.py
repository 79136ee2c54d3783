"""What every executed batch held, for operators: a JSON line each."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from os import strerror
from pathlib import Path

from quiltwork.core.errors import BadInputError
from quiltwork.core.names import ModelRef
from quiltwork.serving.route import Segment
from quiltwork.zoo.segments import segment_id

log = logging.getLogger("quiltwork.serving")


class BatchLog:
    """Appends a line per batch to a file: time, segment, rows, sequences by model.

    path : of the file. Raises BadInputError where it cannot be written.
    wall_clock : seconds since 1970.

    A disk that fills up ends the log and not what is being served.
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
        if self._failed or self._file.closed:
            return
        line = {
            "time": round(self._wall_clock(), 6),
            "segment": segment_id(segment.key),
            "first": segment.links[0].name,
            "last": segment.links[-1].name,
            "blocks": len(segment.links),
            "rows": rows,
            "sequences": {str(ref): count for ref, count in sorted(Counter(models).items())},
        }
        try:
            self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
        except OSError as error:
            self._failed = True
            log.warning("%s: no more batches are written: %s", self._path, strerror(error.errno or 0))

    def close(self) -> None:
        """Write what is left, and no more."""
        try:
            self._file.close()
        except OSError as error:
            log.warning("%s: the last batches are not written: %s", self._path, strerror(error.errno or 0))
