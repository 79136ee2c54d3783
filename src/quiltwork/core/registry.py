"""Finding implementations by name: entry points, and ``module:factory`` strings that any process can resolve."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, entry_points, requires
from typing import Any

from quiltwork.core.errors import BadInputError, ConflictError, NotFoundError, QuiltworkError

SERVABLES = "quiltwork.servables"
TRAINABLES = "quiltwork.trainables"
EXECUTORS = "quiltwork.executors"
MODELS = "quiltwork.models"
"""Folders of models that come with installed packages, by the name to add them to a zoo with."""

_NAME = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_SPEC = re.compile(rf"({_NAME}):({_NAME})", re.ASCII)
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+).*;.*extra\s*==\s*['\"]([^'\"]+)['\"]")


def names(group: str) -> tuple[str, ...]:
    """Names registered in an entry-point group, sorted."""
    return tuple(sorted({entry.name for entry in entry_points(group=group)}))


def spec(group: str, name: str) -> str:
    """The ``module:factory`` string behind a registered name, to hand to another process.

    Raises NotFoundError naming what is registered, and ConflictError where installed packages disagree on the name.
    """
    found = sorted({entry.value for entry in entry_points(group=group, name=name)})
    if len(found) > 1:
        raise ConflictError(f"{name!r} is registered more than once", where=group, hint=", ".join(found))
    if found:
        return found[0]
    known = ", ".join(names(group)) or "none"
    raise NotFoundError(f"nothing is registered as {name!r}", where=group, hint=f"registered: {known}")


def resolve(spec: str) -> Callable[..., Any]:
    """The callable behind ``module:factory``.

    Raises BadInputError where the string is malformed, NotFoundError where there is no such module or attribute, and
    QuiltworkError naming the missing package where an extra is not installed.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise BadInputError(f"{spec[:200]!r} is not of the form module:factory", where="registry")
    module_name, attribute = match.groups()
    try:
        target: Any = import_module(module_name)
        for part in attribute.split("."):
            target = getattr(target, part)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name == missing or module_name.startswith(missing + "."):
            raise NotFoundError(f"no module {missing!r}", where=spec) from error
        raise missing_package(error, where=spec) from error
    except AttributeError as error:
        raise NotFoundError(str(error), where=spec) from error
    if not callable(target):
        raise BadInputError(f"{spec!r} is not callable", where="registry")
    return target  # type: ignore[no-any-return]


def missing_package(error: ModuleNotFoundError, *, where: str | None = None) -> QuiltworkError:
    """What to tell a user whose installation lacks a package: its name and, where one brings it, the extra."""
    package = (error.name or str(error)).partition(".")[0]
    extra = _extra_with(package)
    hint = f"pip install {package}" if extra is None else f"pip install 'quiltwork[{extra}]'"
    return QuiltworkError(f"needs the package {package!r}", where=where, hint=hint)


def _extra_with(package: str) -> str | None:
    """The smallest of Quiltwork's extras that brings a package."""
    try:
        declared = requires("quiltwork") or []
    except PackageNotFoundError:  # run from a source tree that was never installed
        return None
    found = [(match[2], _normal(match[1])) for text in declared if (match := _REQUIREMENT.match(text))]
    sizes = Counter(extra for extra, _ in found)
    return min((extra for extra, brought in found if brought == _normal(package)), key=lambda e: sizes[e], default=None)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def find(group: str, name: str) -> Callable[..., Any]:
    """``resolve(spec(group, name))``: the registered factory itself."""
    return resolve(spec(group, name))
