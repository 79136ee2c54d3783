"""Messages as lines of JSON.

A record is read back only where it has the fields of its kind, each of its type. Nothing in it is executed.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from typing import Any

from quiltwork.cluster.elastic.message import FromWorker, ToWorker
from quiltwork.core.errors import BadInputError

LONGEST = 1 << 20
"""Bytes of a line; whoever sends a longer one is not one of ours."""


def to_line(message: FromWorker | ToWorker) -> bytes:
    """A message as a line of JSON."""
    return json.dumps({"kind": type(message).__name__, **asdict(message)}, separators=(",", ":")).encode() + b"\n"


def from_worker(line: bytes) -> FromWorker:
    """Raises BadInputError for what is no message of a worker."""
    return _read(line, FromWorker)  # type: ignore[no-any-return]


def to_worker(line: bytes) -> ToWorker:
    """Raises BadInputError for what is no message to a worker."""
    return _read(line, ToWorker)  # type: ignore[no-any-return]


def _read(line: bytes, known: Any) -> Any:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInputError("is not JSON", where="message") from error
    kinds = {kind.__name__: kind for kind in typing.get_args(known)}
    name = found.pop("kind", None) if isinstance(found, dict) else None
    if not isinstance(name, str) or name not in kinds:
        raise BadInputError("is of no known kind", where="message")
    return _built(kinds[name], found, name)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _built(kind: Any, found: Mapping[str, Any], where: str) -> Any:
    """A record from its fields: all of them, and no others."""
    if set(found) != {one.name for one in fields(kind)}:
        raise BadInputError("has other fields than it should", where=where)
    return kind(**{name: _value(found[name], hint, f"{where}: {name}") for name, hint in _hints(kind).items()})


def _value(value: Any, hint: Any, where: str) -> Any:
    """A value of the type that a field declares. Raises BadInputError."""
    origin = typing.get_origin(hint)
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        (hint,) = (one for one in typing.get_args(hint) if one is not types.NoneType)
        return _value(value, hint, where)
    if is_dataclass(hint) and isinstance(value, dict):
        return _built(hint, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_value(one, typing.get_args(hint)[0], where) for one in value)
    if origin is Mapping and isinstance(value, dict):
        return {name: _value(one, typing.get_args(hint)[1], where) for name, one in value.items()}
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise BadInputError("is not of its type", where=where)
