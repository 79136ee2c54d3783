"""How long work says how far it is. Whoever started it decides what to do with that: a bar, a log line, nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Advance: TypeAlias = Callable[[int], None]
"""Called now and then with how much was done since the last call: bytes, files, steps."""
Say: TypeAlias = Callable[[str], None]
"""Called with a short phrase about what is being done now."""


def ignore(told: int | str) -> None:
    """An Advance and a Say for when nobody is watching."""
