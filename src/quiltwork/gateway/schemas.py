"""Values against the JSON Schemas that Servables declare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.core.servable import Json


def check(value: Json, schema: Mapping[str, Json], *, at: str = "") -> None:
    """Raise BadInputError naming the field of ``value`` that does not fit."""
    validator: Any = Draft202012Validator(schema)
    error = best_match(validator.iter_errors(value))
    if error is None:
        return
    where = at
    for step in error.absolute_path:
        where += f"[{step}]" if isinstance(step, int) else f".{step}" if where else str(step)
    if error.validator == "required" and isinstance(error.instance, Mapping):
        missing = next(name for name in error.validator_value if name not in error.instance)
        raise BadInputError("is missing", where=f"{where}.{missing}" if where else missing)
    message = error.message if len(error.message) <= 200 else f"does not fit the schema ({error.validator})"
    raise BadInputError(message, where=where or None)


def split(
    fields: Mapping[str, Json], known: frozenset[str] | set[str], options: Mapping[str, Json]
) -> tuple[dict[str, Json], dict[str, Json]]:
    """A request's fields as those the route knows and those that are options of the Servable; null is as if absent.

    Raises UnsupportedError naming a field that is neither.
    """
    declared = options.get("properties", {})
    own: dict[str, Json] = {}
    passed: dict[str, Json] = {}
    for name, value in fields.items():
        if name not in known and name not in declared:
            if value is None:
                continue
            raise UnsupportedError("is not a field that this model's server implements", where=name[:100] or "''")
        if value is None:
            continue
        (own if name in known else passed)[name] = value
    return own, passed
