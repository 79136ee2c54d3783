"""What a comparison leaves on disk: a folder with tables of jobs and decisions, its figures, and where they come from.

The folder appears whole or not at all; one that holds anything else is never touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from quiltwork import __version__
from quiltwork.cluster.log import Action, Row
from quiltwork.cluster.simulate.metrics import lives
from quiltwork.cluster.study.study import World
from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json

FILES = ("jobs.parquet", "log.parquet", "metrics.json", "timing.json")
_PACKAGES = ("numpy", "ortools", "pyarrow", "scikit-learn", "scipy")
_BLOCK = 1 << 20


def check_writable(path: Path, *, folder: bool) -> None:
    """Raise BadInputError where a file or a folder of results cannot be written, before hours are spent on it."""
    where = str(path)
    parent = path.resolve().parent
    if not parent.is_dir():
        raise BadInputError("there is no such folder", where=str(parent))
    if not os.access(parent, os.W_OK):
        raise BadInputError("may not be written to", where=str(parent))
    if not folder:
        if path.is_dir():
            raise BadInputError("is a folder, not a file to write", where=where)
    elif path.exists():
        if not path.is_dir():
            raise BadInputError("is no folder", where=where)
        other = sorted(each.name for each in path.iterdir() if each.name not in FILES or not each.is_file())
        if other:
            raise BadInputError(f"holds {other[0]!r}, which is not of a simulation", where=where,
                                hint="name a folder that is new, empty, or an earlier simulation's")  # fmt: skip


def provenance(command: str, inputs: Sequence[str | Path]) -> dict[str, Json]:
    """Where figures come from: the command, the hashes of what was read, and the versions of what computed them."""
    return {
        "command": command,
        "inputs": {str(path): fingerprint(Path(path)) for path in inputs},
        "versions": {"python": platform.python_version(), "quiltwork": __version__} | _versions(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # nothing that was asked for needed it
            continue
    return found


def fingerprint(path: Path) -> str:
    """SHA-256 of a file; of the names and contents of all files in a folder."""
    made = hashlib.sha256()
    if path.is_dir():
        for each in sorted(p for p in path.rglob("*") if p.is_file()):
            made.update(f"{each.relative_to(path).as_posix()}\0{fingerprint(each)}\n".encode())
        return made.hexdigest()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            made.update(block)
    return made.hexdigest()


def write_whole(path: Path, text: str) -> None:
    """A text file that appears whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.resolve().parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


class Results:
    """A folder of results in the making, beside its place until ``finish``. Without a place, nothing is written."""

    def __init__(self, path: Path | None) -> None:
        self._path = None if path is None else path.resolve()
        self._staged: Path | None = None
        self._writers: dict[str, Any] = {}

    def __enter__(self) -> Self:
        if self._path is not None:
            self._staged = Path(tempfile.mkdtemp(dir=self._path.parent, prefix=f".{self._path.name}.", suffix=".tmp"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for writer in self._writers.values():
                writer.close()
        finally:
            if self._staged is not None:
                shutil.rmtree(self._staged)

    def add(self, arm: str, world: World, log: Sequence[Row]) -> None:
        """One arm's jobs and decisions."""
        if self._staged is not None:
            self._append("jobs.parquet", jobs_table(arm, world, log))
            self._append("log.parquet", log_table(arm, world, log))

    def finish(self, document: Mapping[str, Json], timing: Mapping[str, Json]) -> None:
        """Put the folder in its place."""
        if self._path is None or self._staged is None:
            return
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
        for name, content in (("metrics.json", document), ("timing.json", {"wall_s": timing})):
            text = json.dumps(content, indent=1, allow_nan=False)
            (self._staged / name).write_text(text + "\n", encoding="utf-8")
        os.chmod(self._staged, 0o755)
        # It may have changed since it was looked at first.
        check_writable(self._path, folder=True)
        if not self._path.exists():
            os.rename(self._staged, self._path)
            self._staged = None
            return
        old = self._path.with_name(f"{self._staged.name}.old")
        os.rename(self._path, old)
        try:
            os.rename(self._staged, self._path)
        except OSError:
            os.rename(old, self._path)
            raise
        self._staged = None
        shutil.rmtree(old)

    def _append(self, name: str, table: Any) -> None:
        from pyarrow import parquet

        assert self._staged is not None
        if name not in self._writers:
            self._writers[name] = parquet.ParquetWriter(self._staged / name, table.schema, compression="zstd")
        self._writers[name].write_table(table)


def jobs_table(arm: str, world: World, log: Sequence[Row]) -> Any:
    """A row per job, in order of submission; times in seconds, of the trace's clock or of length."""
    import pyarrow as pa

    found = lives(log)
    submit, queue, jct = (np.array(values) for values in (found.submitted, found.queues, found.jcts))
    alone = np.array(found.alone)
    teams = [row.reason for row in log if row.action is Action.SUBMIT]
    return pa.table(
        {
            "arm": _repeated(arm, len(found.ids)),
            "job": pa.array(found.ids, pa.string()),
            "team": pa.array(teams, pa.string()),
            "gpus": pa.array(found.gpus, pa.int32()),
            "submit_s": submit,
            "start_s": submit + queue,
            "end_s": submit + jct,
            "queue_s": queue,
            "wait_s": pa.array(found.waits, pa.float64()),
            "jct_s": jct,
            "alone_s": alone,
            "slowdown": jct / np.maximum(alone, 1e-9),
            "preemptions": pa.array(found.preemptions, pa.int32()),
        }
    )


def log_table(arm: str, world: World, log: Sequence[Row]) -> Any:
    """A row per decision or event, in their order. ``servers`` : names of those whose GPUs change hands, and
    ``server_gpus`` by how many on each."""
    import pyarrow as pa

    names = [server.id for server in world.servers]
    offsets = np.zeros(len(log) + 1, dtype=np.int32)
    np.cumsum([len(row.servers) for row in log], out=offsets[1:])

    def listed(values: Any) -> Any:
        return pa.ListArray.from_arrays(pa.array(offsets), values)

    return pa.table(
        {
            "arm": _repeated(arm, len(log)),
            "time": pa.array([row.time for row in log], pa.float64()),
            "action": pa.array([str(row.action) for row in log], pa.string()),
            "job": pa.array([row.job for row in log], pa.string()),
            "servers": listed(pa.array([names[s] for row in log for s, _ in row.servers], pa.string())),
            "server_gpus": listed(pa.array([gpus for row in log for _, gpus in row.servers], pa.int32())),
            "before": pa.array([row.before for row in log], pa.int32()),
            "after": pa.array([row.after for row in log], pa.int32()),
            "gpus_train": pa.array([row.gpus[0] for row in log], pa.int32()),
            "gpus_lent": pa.array([row.gpus[1] for row in log], pa.int32()),
            "reason": pa.array([row.reason for row in log], pa.string()),
            "cost": pa.array([row.cost for row in log], pa.float64()),
            "gain": pa.array([row.gain for row in log], pa.float64()),
        }
    )


def _repeated(text: str, count: int) -> Any:
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, dtype=np.int32)), pa.array([text]))
