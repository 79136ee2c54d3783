"""Values against the JSON Schemas that Servables declare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import best_match

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.core.servable import Json


def check(value: Json, schema: Mapping[str, Json], *, at: str = "") -> None:
    """Raise BadInputError naming the field of ``value`` that does not fit."""
    validator: Any = _Validator(schema)
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


def _items(validator: Any, items: Json, instance: Json, schema: Mapping[str, Json]) -> Iterator[Any]:
    """The keyword ``items``, up to the first item that does not fit; a list of numbers or texts at a glance.

    jsonschema's own takes microseconds for each of a million token ids, and makes an error of each that is wrong.
    """
    if "prefixItems" in schema:
        yield from Draft202012Validator.VALIDATORS["items"](validator, items, instance, schema)
        return
    if not isinstance(instance, list) or _all_fit(instance, items):
        return
    for at, item in enumerate(instance):
        error = next(validator.descend(item, items, path=at), None)
        if error is not None:
            yield error
            return


def _all_fit(values: list[Json], items: Json) -> bool:
    """Whether all of ``values`` surely fit a schema that is simple enough to tell."""
    if not values or not isinstance(items, Mapping):
        return not values
    kinds = set(map(type, values))
    if items.get("type") == "integer" and kinds == {int} and items.keys() <= {"type", "minimum", "maximum"}:
        low, high = items.get("minimum"), items.get("maximum")
        return (low is None or min(values) >= low) and (high is None or max(values) <= high)
    if items.get("type") == "string" and kinds == {str} and items.keys() <= {"type", "minLength", "maxLength"}:
        shortest, longest = items.get("minLength", 0), items.get("maxLength")
        return min(map(len, values)) >= shortest and (longest is None or max(map(len, values)) <= longest)
    return False


_Validator: Any = validators.extend(Draft202012Validator, {"items": _items})
