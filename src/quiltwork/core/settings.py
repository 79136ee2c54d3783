"""Settings of whoever serves: named JSON values, each checked when it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from quiltwork.core.errors import BadInputError
from quiltwork.core.names import ModelRef, parse_ref
from quiltwork.core.servable import Json

Value = TypeVar("Value")


def setting(values: Mapping[str, Json], name: str, kind: type[Value], default: Value) -> Value:
    """One of them, or the default where it is absent. Raises BadInputError naming it where it is of another type."""
    value = values.get(name, default)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise BadInputError(f"must be of type {kind.__name__}, not {value!r:.60}", where=name)
    return value


def references(values: Json, name: str) -> dict[ModelRef, ModelRef]:
    """A map from names to models. Raises BadInputError naming the setting where it is none."""
    if not isinstance(values, Mapping) or not all(isinstance(v, str) for pair in values.items() for v in pair):
        raise BadInputError("must map names to models", where=name)
    return {parse_ref(key): parse_ref(model) for key, model in values.items()}
