"""Finding implementations by name: entry points, and ``module:factory`` strings that any process can resolve."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from quiltwork.core.errors import BadInputError, NotFoundError, QuiltworkError

SERVABLES = "quiltwork.servables"
TRAINABLES = "quiltwork.trainables"
EXECUTORS = "quiltwork.executors"


def names(group: str) -> tuple[str, ...]:
    """Names registered in an entry-point group, sorted."""
    return tuple(sorted({entry.name for entry in entry_points(group=group)}))


def spec(group: str, name: str) -> str:
    """The ``module:factory`` string behind a registered name, to hand to another process.

    Raises NotFoundError naming what is registered.
    """
    for entry in entry_points(group=group):
        if entry.name == name:
            return entry.value
    known = ", ".join(names(group)) or "none"
    raise NotFoundError(f"nothing is registered as {name!r}", where=group, hint=f"registered: {known}")


def resolve(spec: str) -> Callable[..., Any]:
    """The callable behind ``module:factory``.

    Raises BadInputError where the string is malformed, NotFoundError where there is no such module or attribute, and
    QuiltworkError naming the missing package where an extra is not installed.
    """
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise BadInputError(f"{spec!r} is not of the form module:factory", where="registry")
    try:
        target: Any = import_module(module_name)
        for part in attribute.split("."):
            target = getattr(target, part)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name == missing or module_name.startswith(missing + "."):
            raise NotFoundError(f"no module {missing!r}", where=spec) from error
        raise QuiltworkError(
            f"needs the package {missing!r}", where=spec, hint="install the extra that brings it"
        ) from error
    except AttributeError as error:
        raise NotFoundError(str(error), where=spec) from error
    if not callable(target):
        raise BadInputError(f"{spec!r} is not callable", where="registry")
    return target  # type: ignore[no-any-return]


def find(group: str, name: str) -> Callable[..., Any]:
    """``resolve(spec(group, name))``: the registered factory itself."""
    return resolve(spec(group, name))
