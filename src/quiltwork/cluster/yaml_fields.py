"""Fields of a YAML document that know which line they stand on."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json
from quiltwork.core.units import parse_bytes, parse_duration

T = TypeVar("T")
_LARGEST = 1 << 20
_BRACKET = re.compile(r"[][{}]")
_DEEPEST = 100
"""Brackets inside one another, those of quoted text among them."""
_EXPONENT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+")
_WRITTEN = ("str", "int", "float", "bool", "timestamp")


class Field:
    """A value with its place: the file, the line, and the names that lead to it."""

    def __init__(self, node: Any, file: str, path: str = "") -> None:
        self._node, self._file, self._path = node, file, path

    def wrong(self, what: str, *, hint: str | None = None) -> BadInputError:
        """An error that names this field."""
        where = f"{self._file}: line {self._node.start_mark.line + 1}"
        return BadInputError(what, where=f"{where}: {self._path}" if self._path else where, hint=hint)

    def fields(self, known: Sequence[str], needed: Sequence[str] = ()) -> dict[str, Field]:
        """Named fields, each of ``known`` at most once. Raises BadInputError."""
        found = self.named()
        for name, field in found.items():
            if name not in known:
                raise field.wrong("is not a field", hint=f"known: {', '.join(known)}")
        for name in needed:
            if name not in found:
                raise self.wrong(f"has no field {name!r}")
        return found

    def named(self) -> dict[str, Field]:
        """Fields of any names, each once. Raises BadInputError."""
        if self._node.id != "mapping":
            raise self.wrong("must be a set of named fields")
        found: dict[str, Field] = {}
        for key, node in self._node.value:
            field = self._under(key, f".{key.value}" if key.id == "scalar" else ".?")
            if key.id != "scalar":
                raise field.wrong("is not a name")
            if key.value in found:
                raise field.wrong("is there twice")
            found[key.value] = self._under(node, f".{key.value}")
        return found

    def items(self) -> list[Field]:
        """The parts of a list. Raises BadInputError."""
        if self._node.id != "sequence":
            raise self.wrong("must be a list")
        return [self._under(node, f"[{index}]") for index, node in enumerate(self._node.value)]

    def is_map(self) -> bool:
        return bool(self._node.id == "mapping")

    def is_list(self) -> bool:
        return bool(self._node.id == "sequence")

    def text(self) -> str:
        """Words that are not empty; a number, a date or ``yes`` is taken as it is written. Raises BadInputError."""
        if self._node.id != "scalar" or self._kind() not in _WRITTEN or not self._node.value.strip():
            raise self.wrong("must be text")
        return str(self._node.value)

    def one_of(self, values: Sequence[str]) -> str:
        text = self.text()
        if text not in values:
            raise self.wrong(f"{text[:40]!r} is not one of {', '.join(values)}")
        return text

    def whole(self, least: int) -> int:
        """A whole number of at least ``least``. Raises BadInputError."""
        value = self._scalar()
        if type(value) is not int or value < least:
            raise self.wrong(f"{self._shown()} is not a whole number of at least {least}")
        return value

    def positive(self) -> float:
        value = self._scalar()
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise self.wrong(f"{self._shown()} is not a positive number")
        return float(value)

    def seconds(self) -> float:
        """A positive length of time: a number of seconds, or ``1h30m``. Raises BadInputError."""
        seconds = self._amount(parse_duration, "a length of time, for example 90, 15m or 1h30m")
        if not 0 < seconds < math.inf:
            raise self.wrong(f"{self._shown()} is not above 0")
        return seconds

    def bytes(self) -> int:
        """A positive size: a number of bytes, or ``16GB``. Raises BadInputError."""
        size = self._amount(parse_bytes, "a size, for example 500MiB or 16GB")
        if size < 1:
            raise self.wrong(f"{self._shown()} is not above 0")
        return size

    def flag(self) -> bool:
        value = self._scalar()
        if not isinstance(value, bool):
            raise self.wrong(f"{self._shown()} is neither true nor false")
        return value

    def json(self) -> Json:
        """Whatever it is, where JSON could say it too. Raises BadInputError."""
        if self._node.id == "mapping":
            return {name: field.json() for name, field in self.named().items()}
        if self._node.id == "sequence":
            return [field.json() for field in self.items()]
        value = self._scalar()
        if value is not None and not isinstance(value, bool | int | float | str):
            raise self.wrong(f"{self._shown()} is not JSON", hint="put it in quotes")
        if isinstance(value, float) and not math.isfinite(value):
            raise self.wrong(f"{self._shown()} is not a finite number")
        return value

    def _under(self, node: Any, step: str) -> Field:
        return Field(node, self._file, f"{self._path}{step}".removeprefix("."))

    def _amount(self, parse: Callable[[str], T], said: str) -> T:
        try:
            return parse(self.text())
        except BadInputError as error:
            raise self.wrong(f"{self._shown()} is not {said}") from error

    def _kind(self) -> str:
        return str(self._node.tag).rpartition(":")[2]

    def _scalar(self) -> Any:
        import yaml

        if self._node.id != "scalar":
            raise self.wrong("must be a single value")
        if self._kind() == "str" and self._node.style is None and _EXPONENT.fullmatch(self._node.value):
            return float(self._node.value)  # 1e-3 is a number to JSON and YAML 1.2, and text to YAML 1.1
        try:
            return yaml.constructor.SafeConstructor().construct_object(self._node)
        except (yaml.YAMLError, ValueError) as error:
            raise self.wrong(f"{self._shown()} is not a {self._kind()}") from error

    def _shown(self) -> str:
        return repr(str(self._node.value)[:40]) if self._node.id == "scalar" else f"a {self._node.id}"


def parse_yaml(text: str, file: str) -> Field:
    """A YAML (or JSON) document of at most a megabyte, without anchors. Raises BadInputError naming the line."""
    import yaml

    if len(text) > _LARGEST:
        raise BadInputError("is longer than a megabyte", where=file)
    # Before it is parsed: a scanner looks back at every open bracket for each token.
    depth = deepest = 0
    for bracket in _BRACKET.findall(text):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    if deepest > _DEEPEST:
        raise BadInputError("is nested too deeply", where=file)
    try:
        # An alias stands for as much as it likes: nine lines of them for a billion values.
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                where = f"{file}: line {event.start_mark.line + 1}"
                raise BadInputError("anchors and aliases have no place here", where=where)
        node = yaml.compose(text, yaml.SafeLoader)
    except RecursionError as error:
        raise BadInputError("is nested too deeply", where=file) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = file if mark is None else f"{file}: line {mark.line + 1}"
        raise BadInputError(f"is not YAML: {getattr(error, 'problem', error)}", where=where) from error
    if node is None:
        raise BadInputError("is empty", where=file)
    return Field(node, file)
