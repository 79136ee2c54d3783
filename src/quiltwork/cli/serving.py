"""What commands that serve over HTTP have in common: how they end, and who may come in."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from quiltwork.core.errors import BadInputError

if TYPE_CHECKING:
    from quiltwork.gateway.tenants import KeyFile


def end_quietly() -> None:
    """To be told to end while things are loaded or closed is no failure; while it answers, ``serve`` sees to it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def open_keys(path: Path | None, hint: str) -> KeyFile | None:
    """Who may come in; None where everybody may. Raises BadInputError for a file without keys."""
    from quiltwork.gateway.tenants import KeyFile

    if path is None:
        return None
    keys = KeyFile(path)
    if not keys.keys():
        raise BadInputError("has no keys", where=str(path), hint=hint)
    return keys
