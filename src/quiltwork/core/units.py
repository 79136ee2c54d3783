"""Amounts as people write them: bytes and durations."""

from __future__ import annotations

import math
import re

from quiltwork.core.errors import BadInputError

_DECIMAL: dict[str, int] = {unit: 1000**power for power, unit in enumerate(("", "k", "m", "g", "t", "p"))}
_BINARY: dict[str, int] = {f"{unit}i": 1024**power for power, unit in enumerate(("", "k", "m", "g", "t", "p")) if unit}
_PREFIXES = _DECIMAL | _BINARY
_UNITS = ("kB", "MB", "GB", "TB", "PB")
_BYTES = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([kmgtp]?i?)b?", re.IGNORECASE)
_SECONDS = {"ms": 1e-3, "us": 1e-6, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}
_STEP = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ms|us|s|m|h|d)")
_LONGEST = 64


def parse_bytes(text: str, *, where: str = "size") -> int:
    """``8GB`` (decimal), ``500MiB`` (binary), ``1.5k`` or a plain number, in bytes, rounded to the nearest.

    Case does not matter. Raises BadInputError for anything else.
    """
    match = _BYTES.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    if match is None or match[2].lower() not in _PREFIXES:
        raise BadInputError(f"{_shown(text)} is not a size", where=where, hint="for example 500MiB or 8GB")
    return round(float(match[1]) * _PREFIXES[match[2].lower()])


def format_bytes(count: int) -> str:
    """Bytes with a decimal unit: ``999 bytes``, ``1.1 MB``."""
    size = float(abs(count))
    if size < 1000:
        return f"{count:,} {'byte' if abs(count) == 1 else 'bytes'}"
    # 999.95 would be shown as 1,000.0 of its unit.
    power = next((n for n in range(1, 5) if size / 1000**n < 999.95), 5)
    return f"{math.copysign(size / 1000**power, count):,.1f} {_UNITS[power - 1]}"


def parse_duration(text: str, *, where: str = "duration") -> float:
    """``90``, ``1.5s``, ``200ms``, ``2m`` or ``1h30m``, in seconds. Raises BadInputError for anything else."""
    stripped = text.strip().lower() if len(text) <= _LONGEST else ""
    bare = re.fullmatch(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+", stripped)
    if bare is not None:
        return float(stripped)
    steps = _STEP.findall(stripped)
    if not steps or "".join(number + unit for number, unit in steps) != stripped:
        raise BadInputError(f"{_shown(text)} is not a duration", where=where, hint="for example 1.5s, 200ms or 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in steps)


def format_duration(seconds: float) -> str:
    """Seconds in the unit that suits: ``12 µs``, ``3.4 ms``, ``5.0 s``, ``2 m 05 s``, ``1 h 30 m``."""
    size = abs(seconds)
    sign = "-" if seconds < 0 else ""
    if size < 0.9995e-3:
        return f"{sign}{size * 1e6:.0f} µs"
    if size < 0.9995:
        return f"{sign}{size * 1e3:.1f} ms"
    if size < 59.95:
        return f"{sign}{size:.1f} s"
    whole = round(size)
    if whole < 3600:
        return f"{sign}{whole // 60} m {whole % 60:02d} s"
    minutes = round(size / 60)
    return f"{sign}{minutes // 60:,} h {minutes % 60:02d} m"


def _shown(text: str) -> str:
    return repr(text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "...")
