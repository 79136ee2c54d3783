"""Checkpoints: a state as safetensors, and a JSON file beside it that says what it is and whether it is whole.

    step-000000120.json          done, finished, batch course, the state's meta; length and BLAKE3 of the tensors' file
    step-000000120-1f0c.safetensors
    result.json, result-77ab.safetensors      the same for the last state of a job that has finished

The tensors are brought to the disk before the JSON file gets its name, so that a crash at any time leaves what was
there before. A checkpoint whose files are cut off or changed is passed over, and the one before it counts.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from blake3 import blake3
from safetensors import SafetensorError
from safetensors.numpy import load_file

from quiltwork.cluster.elastic.course import Course, course_from
from quiltwork.core.disk import disk_errors, sync
from quiltwork.core.errors import BadInputError, CorruptionError, QuiltworkError
from quiltwork.core.servable import Json
from quiltwork.core.trainable import State
from quiltwork.zoo.objects import as_view, content_id, map_file, write_synced

FORMAT = "quiltwork-checkpoint-1"
KEPT = 2
"""How many are kept; the result stays beside them."""
_STEP = re.compile(r"step-(\d+)\.json")
_DTYPES = {
    **{"float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int16": "I16"},
    **{"int8": "I8", "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL"},
    **{"complex64": "C64"},
}


@dataclass(frozen=True)
class Progress:
    """Where a job is, beside what its trainable says of itself."""

    done: int
    finished: bool = False
    course: Course | None = None

    def to_json(self) -> dict[str, Json]:
        return asdict(self)


def progress_from(fields: object, where: str) -> Progress:
    """What ``to_json`` gave. Raises BadInputError naming ``where``."""
    if not isinstance(fields, dict):
        raise BadInputError("is not the progress of a job", where=where)
    done, finished, course = fields.get("done"), fields.get("finished"), fields.get("course")
    if type(done) is not int or done < 0 or type(finished) is not bool or not isinstance(course, dict | None):
        raise BadInputError("is not the progress of a job", where=where)
    return Progress(done, finished, None if course is None else course_from(course, where))


@dataclass(frozen=True)
class Found:
    """A checkpoint that was read and is whole."""

    path: Path
    state: State
    progress: Progress


def write_checkpoint(folder: Path, state: State, progress: Progress, *, result: bool = False) -> Path:
    """Write a checkpoint and remove those before the last ``KEPT``; returns its JSON file.

    Raises CapacityError where the disk is full, QuiltworkError where the folder cannot be written, BadInputError for an
    array of a type that safetensors has none for; what was there before is there still.
    """
    name = "result" if result else f"step-{progress.done:09d}"
    tensors = folder / f"{name}-{secrets.token_hex(4)}.safetensors"
    described = folder / f"{name}.json"
    fresh = folder / f".{described.name}.{secrets.token_hex(4)}"
    header = _header(state)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        placed = False
        digest = blake3()
        try:
            nbytes = write_synced(tensors, _watched(state, header, digest.update))
            told = {
                "format": FORMAT,
                "tensors": {"file": tensors.name, "bytes": nbytes, "blake3": digest.hexdigest()},
                "progress": progress.to_json(),
                "meta": dict(state.meta),
            }
            write_synced(fresh, [json.dumps(told, indent=1).encode()])
            fresh.replace(described)
            placed = True
            sync(folder)
        finally:
            if not placed:
                tensors.unlink(missing_ok=True)
                fresh.unlink(missing_ok=True)
        _prune(folder)
    return described


def newest(folder: Path, skipped: Callable[[str], None]) -> Found | None:
    """The checkpoint with most steps that is whole; None where there is none.

    ``skipped`` is told, in one line each, which newer ones are not whole.
    """
    for path in _by_age(folder):
        try:
            return read_checkpoint(path)
        except QuiltworkError as error:
            skipped(str(error))
    return None


def read_checkpoint(path: Path) -> Found:
    """Raises CorruptionError where it is not what was written, QuiltworkError where it cannot be read."""
    where = str(path)
    with disk_errors(path.parent):
        raw = path.read_bytes()
    try:
        told = json.loads(raw)
        tensors = told["tensors"]
        file, nbytes, digest = path.parent / str(tensors["file"]), tensors["bytes"], tensors["blake3"]
        progress, meta = progress_from(told["progress"], where), told["meta"]
        if told["format"] != FORMAT or not isinstance(meta, dict) or file.parent != path.parent:
            raise BadInputError("is not a checkpoint", where=where)
    except (ValueError, TypeError, KeyError, BadInputError) as error:
        raise CorruptionError("is cut off, or no checkpoint", where=where) from error
    try:
        found = map_file(file)
        whole = len(found) == nbytes and content_id(found) == digest
        # Copies: what is read from a file cannot be written to, and a trainable may want to.
        arrays = {name: np.array(array) for name, array in load_file(file).items()} if whole else {}
    except (OSError, ValueError, SafetensorError) as error:
        raise CorruptionError(f"cannot be read: {error}", where=str(file)) from error
    if not whole:
        raise CorruptionError("is cut off or was changed", where=str(file))
    return Found(path, State(arrays, meta), progress)


def _by_age(folder: Path) -> list[Path]:
    """JSON files of checkpoints, the result first, then from the newest on."""
    steps = sorted(
        (int(match[1]), path) for path in folder.glob("step-*.json") if (match := _STEP.fullmatch(path.name))
    )
    result = folder / "result.json"
    return [*([result] if result.exists() else []), *(path for _, path in reversed(steps))]


def _prune(folder: Path) -> None:
    """Remove all but the newest, and tensors that no file speaks of any more."""
    steps = [path for path in _by_age(folder) if _STEP.fullmatch(path.name)]
    for path in steps[KEPT:]:
        path.unlink(missing_ok=True)
    kept = {path.stem for path in _by_age(folder)}
    for path in folder.glob("*.safetensors"):
        if path.name.rpartition("-")[0] not in kept:
            path.unlink(missing_ok=True)


def _header(state: State) -> bytes:
    """The length and JSON header of a safetensors file (https://github.com/huggingface/safetensors#format)."""
    entries: dict[str, object] = {}
    start = 0
    for name, array in state.arrays.items():
        if array.dtype.name not in _DTYPES:
            raise BadInputError(f"safetensors has no {array.dtype}", where=f"state: {name}")
        end = start + array.nbytes
        entries[name] = {"dtype": _DTYPES[array.dtype.name], "shape": array.shape, "data_offsets": (start, end)}
        start = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _watched(
    state: State, header: bytes, watch: Callable[[bytes | memoryview], object]
) -> Iterator[bytes | memoryview]:
    """The bytes of the tensors' file, each piece shown to ``watch``."""
    watch(header)
    yield header
    for array in state.arrays.values():
        if array.nbytes:
            little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            view = as_view(little.reshape(-1).view(np.uint8))
            watch(view)
            yield view
