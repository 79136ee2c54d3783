"""Settings on a command line that have no option of their own: ``--set NAME=VALUE``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

from quiltwork.core.servable import Json


def read_settings(given: Iterable[str]) -> dict[str, Json]:
    """NAME=VALUE, with values as JSON where they are, else as text. Raises BadInputError for one that is neither."""
    from quiltwork.core.errors import BadInputError

    found: dict[str, Json] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise BadInputError(f"{text[:40]!r} is not NAME=VALUE", where="--set")
        try:
            found[name.strip()] = json.loads(value)
        except (ValueError, RecursionError):
            found[name.strip()] = value
    return found


def words_of(settings: Mapping[str, Json]) -> Iterator[str]:
    """The words that give such settings again."""
    for name, value in settings.items():
        yield from ("--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}")
