"""Gates as JSON: how every folder with experts, whoever wrote it, remembers how its layers decide.

``config.json`` has them by the index of their layer, and what else there is to know of a model beside them::

    "quiltwork_moe": {"gates": {"0": {"gate": "Adaptive", "threshold": 0.1, "most": 2, ...}, ...}, ...}

A calibration's file has the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.core.servable import Json
from quiltwork.moe.gate import Gate
from quiltwork.zoo.sparse import MOST_EXPERTS, SETTINGS

FIELD = SETTINGS
"""The field of config.json that holds the gates; transformers keeps it and does not look at it."""
_ROOM = "quiltwork.moe"


def gate_settings(gate: Gate) -> dict[str, Json]:
    """The gate's name and fields. Raises UnsupportedError for one that is set token by token."""
    if not dataclasses.is_dataclass(gate):
        raise UnsupportedError("is no dataclass, and cannot be saved", where=f"gate {type(gate).__name__}")
    settings: dict[str, Json] = {"gate": type(gate).__name__}
    for field in dataclasses.fields(gate):
        value = getattr(gate, field.name)
        if not (value is None or isinstance(value, bool | int | float | str)):
            raise UnsupportedError("is not one value for all tokens, and cannot be saved", where=f"gate: {field.name}")
        settings[field.name] = value
    return settings


def gate_of(settings: Json, where: str, weights: str | None = None) -> Gate:
    """The gate of such settings. Raises BadInputError naming the field; ``where`` is what they are called there.

    weights : their kind where the settings do not say it; the gate's own default where None.
    """
    if not isinstance(settings, Mapping) or not isinstance(settings.get("gate"), str):
        raise BadInputError("is no gate", where=where)
    room, name = import_module(_ROOM), str(settings["gate"])
    kind = getattr(room, name) if name in room.__all__ else None
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and hasattr(kind, "width")):
        raise BadInputError(f"{name[:40]!r} is no gate", where=where)
    known = {field.name: field for field in dataclasses.fields(kind)}
    values = {field: value for field, value in settings.items() if field != "gate"}
    for field, value in values.items():
        if field not in known:
            raise BadInputError(f"{name} has no such setting", where=f"{where}: {field}")
        like = known[field].default
        if not _alike(value, like) or (str(known[field].type).startswith("tuple") and value is not None):
            raise BadInputError(f"{value!r:.40} does not do for {like!r}", where=f"{where}: {field}")
    if weights is not None and "weights" in known:
        values.setdefault("weights", weights)
    made: Any = kind(**values)
    try:
        made.width(MOST_EXPERTS)
    except BadInputError as error:
        raise BadInputError(str(error), where=where) from error
    return cast(Gate, made)


def _alike(value: Json, like: object) -> bool:
    if like is None:
        return value is None or type(value) is int
    if isinstance(like, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(like, bool)
    if isinstance(like, float):
        return isinstance(value, int | float) and value == value
    return isinstance(value, type(like))


def gates_document(gates: Mapping[int, Gate]) -> dict[str, Json]:
    """Gates by the index of their layer."""
    return {"gates": {str(index): gate_settings(gate) for index, gate in gates.items()}}


def gates_of(document: Json, where: str, weights: str | None = None) -> dict[int, Gate]:
    """The inverse. Raises BadInputError naming the layer. weights : see ``gate_of``."""
    found = document.get("gates") if isinstance(document, Mapping) else None
    if not isinstance(found, Mapping):
        raise BadInputError("there are no gates", where=where)
    gates = {}
    for index, settings in found.items():
        if not (isinstance(index, str) and index.isascii() and index.isdigit()):
            raise BadInputError(f"{index!r:.40} is no index of a layer", where=f"{where}: gates")
        gates[int(index)] = gate_of(settings, f"{where}: gates: {index}", weights)
    return gates
