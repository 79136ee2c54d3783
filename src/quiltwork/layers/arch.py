"""Reading a block's ``arch``: the value of a key, or one clear error naming it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.layers.protocol import Weights


def known_keys(arch: Mapping[str, Any], known: frozenset[str]) -> None:
    """Raise UnsupportedError for a key that would change the arithmetic and is not implemented."""
    for key in arch:
        if key not in known:
            raise UnsupportedError("is not implemented", where=f"arch.{key}")


def count(arch: Mapping[str, Any], key: str, least: int = 1) -> int:
    """An integer of at least ``least``. Raises BadInputError naming the key."""
    value = arch.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise BadInputError(f"must be an integer of at least {least}, is {value!r}", where=f"arch.{key}")
    return value


def number(arch: Mapping[str, Any], key: str) -> float:
    """A number of at least 0. Raises BadInputError naming the key."""
    value = arch.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise BadInputError(f"must be a number of at least 0, is {value!r}", where=f"arch.{key}")
    return float(value)


def choice(arch: Mapping[str, Any], key: str, known: tuple[str, ...]) -> str:
    """One of ``known``. Raises UnsupportedError naming the key and what is known."""
    value = arch.get(key)
    if value not in known:
        raise UnsupportedError(f"{value!r} is not implemented", where=f"arch.{key}", hint=f"known: {', '.join(known)}")
    return str(value)


def weight(weights: Weights, role: str, *shape: int) -> Tensor:
    """The tensor of ``role``. Raises BadInputError where it is missing or has another shape."""
    value = weights.get(role)
    if value is None:
        raise BadInputError("is missing", where=role)
    if tuple(value.shape) != shape:
        raise BadInputError(f"has shape {tuple(value.shape)}, expected {shape}", where=role)
    return value
