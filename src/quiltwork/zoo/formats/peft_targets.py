"""Which modules a PEFT configuration means, decided as PEFT decides it (``check_target_module_exists``)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from quiltwork.zoo.config import Fields


def saved_modules(fields: Fields) -> Sequence[str]:
    """The names in ``modules_to_save``."""
    return texts(fields, "modules_to_save") or ()


def texts(fields: Fields, name: str) -> list[str] | None:
    """A field that is a list of names, or one name."""
    value = fields.get(name)
    if isinstance(value, str):
        return [value]
    if value is not None and (not isinstance(value, list) or not all(isinstance(v, str) for v in value)):
        raise fields.error(name, "must be a list of names")
    return value


def is_saved(path: str, fields: Fields) -> bool:
    """Whether ``modules_to_save`` names a module: as in PEFT by the end of its path, inside a word too."""
    return any(path.endswith(m) for m in saved_modules(fields))


def matches(pattern: str, text: str, fields: Fields, name: str, whole: bool = True) -> bool:
    """Whether a regular expression of the field ``name`` matches all of ``text`` (its beginning, without ``whole``)."""
    try:
        return (re.fullmatch if whole else re.match)(pattern, text) is not None
    except (re.error, RecursionError, OverflowError) as error:
        raise fields.error(name, f"{pattern[:60]!r} is not a regular expression: {error}") from error


def is_target(fields: Fields, path: str, *, linear: bool, output: bool) -> bool:
    """Whether PEFT puts an adapter on the module at ``path`` (``check_target_module_exists``).

    ``linear`` and ``output`` say whether it is a projection, and whether it is the output embedding: the two things
    that ``all-linear`` looks at.
    """
    excluded = fields.get("exclude_modules")
    if isinstance(excluded, str):
        if excluded and matches(excluded, path, fields, "exclude_modules"):
            return False
    elif any(path == m or path.endswith(f".{m}") for m in texts(fields, "exclude_modules") or ()):
        return False
    for saved in saved_modules(fields):
        if matches(rf"(^|.*\.){saved}($|\..*)", path, fields, "modules_to_save", whole=False):
            return False
    wanted = fields.get("target_modules")
    if wanted is None:
        return True
    if isinstance(wanted, str):
        if wanted.lower() == "all-linear":
            return linear and not output
        return matches(wanted, path, fields, "target_modules")
    if path in (texts(fields, "target_modules") or ()):
        return True
    if not any(path.endswith(f".{m}") for m in wanted):
        return False
    return _in_layers(fields, path)


def _in_layers(fields: Fields, path: str) -> bool:
    layers = fields.get("layers_to_transform")
    if layers is None or layers == []:
        return True
    patterns = [rf"(?:^|.*?\.){p}\.(?P<idx>\d+)\." for p in texts(fields, "layers_pattern") or ()]
    for pattern in patterns or [r".*?\.[^.]*\.(?P<idx>\d+)\."]:
        found = re.match(pattern, path) if matches(pattern, path, fields, "layers_pattern", whole=False) else None
        if found is not None:
            index = int(found["idx"])
            return index in layers if isinstance(layers, list) else index == layers
    return False


def pattern_value(fields: Fields, name: str, path: str, default: float) -> float:
    """What ``rank_pattern`` or ``alpha_pattern`` says of a module: the first key that ends its path, else default."""
    patterns = fields.get(name) or {}
    if not isinstance(patterns, dict):
        raise fields.error(name, "must be an object")
    for key, value in patterns.items():
        if matches(rf"(.*\.)?({key})$", path, fields, name, whole=False):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise fields.error(name, f"{key[:60]!r} must have a number")
            return value
    return default
