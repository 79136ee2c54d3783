"""Reading a model's config.json: an object of bounded size whose fields are checked before anything relies on them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json

MAX_JSON = 64 << 20
"""Bytes of a JSON file beside the weights; tokenizers reach tens of MB, configurations never."""

LARGEST_SIZE = 1 << 24
"""Upper bound of every width, vocabulary and position count: far above any model, far below what would hurt."""

MOST_LAYERS = 4096


def read_json(path: Path) -> dict[str, Json]:
    """The JSON object in a file. Raises BadInputError naming the file."""
    where = str(path)
    try:
        if path.stat().st_size > MAX_JSON:
            raise BadInputError(f"larger than {MAX_JSON >> 20} MiB", where=where)
        value = json.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise BadInputError(f"cannot be read: {error.strerror or error}", where=where) from error
    except UnicodeDecodeError as error:
        raise BadInputError(f"is not UTF-8 (byte {error.start})", where=where) from error
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"is not JSON: {error}", where=where) from error
    if not isinstance(value, dict):
        raise BadInputError("is not a JSON object", where=where)
    return value


@dataclass(frozen=True)
class Fields:
    """The fields of a JSON object with their defaults; every access names the field when it is not as it should be."""

    values: Mapping[str, Json]
    defaults: Mapping[str, Json]
    where: str
    """The file, for messages."""

    def get(self, name: str) -> Json:
        """The value, else the default, else None. A field that is present and null is null."""
        return self.values[name] if name in self.values else self.defaults.get(name)

    def error(self, name: str, what: str) -> BadInputError:
        """The error to raise about a field."""
        return BadInputError(what, where=f"{self.where}: {name}")

    def size(self, name: str, largest: int = LARGEST_SIZE) -> int:
        """A positive whole number that is not absurd."""
        value = self.get(name)
        if type(value) is not int or value < 1:
            raise self.error(name, f"must be a positive whole number, not {str(value)[:40]}")
        if value > largest:
            raise self.error(name, f"{value} is absurdly large (at most {largest})")
        return value

    def optional_size(self, name: str) -> int | None:
        """As ``size``, or None where the field is null or absent."""
        return None if self.get(name) is None else self.size(name)

    def number(self, name: str) -> float:
        """A finite number."""
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(name, f"must be a number, not {str(value)[:40]}")
        return float(value)

    def flag(self, name: str) -> bool:
        """True or false; null is false."""
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.error(name, f"must be true or false, not {str(value)[:40]}")
        return bool(value)

    def text(self, name: str) -> str:
        """A string."""
        value = self.get(name)
        if not isinstance(value, str):
            raise self.error(name, f"must be text, not {str(value)[:40]}")
        return value

    def one_of(self, name: str, known: tuple[str, ...]) -> str:
        """One of the texts ``known``; the empty one, where it is known, is not told of."""
        text = self.text(name)
        if text not in known:
            raise self.error(name, f"{text[:40]!r} is not one of {', '.join(filter(None, known))}")
        return text

    def whole(self, name: str, below: float = math.inf) -> int:
        """A whole number from 0 on."""
        value = self.get(name)
        if type(value) is not int or not 0 <= value < below:
            raise self.error(name, f"must be a whole number that is not negative, not {str(value)[:40]}")
        return value

    def above(self, name: str) -> float:
        """A finite number above 0."""
        if (value := self.number(name)) <= 0:
            raise self.error(name, f"{value:g} is not above 0")
        return value

    def not_below(self, name: str) -> float:
        """A finite number from 0 on."""
        if (value := self.number(name)) < 0:
            raise self.error(name, f"{value:g} is below 0")
        return value
