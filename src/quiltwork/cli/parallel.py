"""How many threads or processes a command may be told to use."""

from __future__ import annotations

import os

from quiltwork.core.errors import BadInputError

PER_PROCESSOR = 8
"""More never helps, and many more than the system can start end the process."""


def check_parallel(option: str, count: int | None) -> None:
    """Raise BadInputError where an option asks for none, or for more than this machine can use."""
    if count is None:
        return
    most = PER_PROCESSOR * (os.cpu_count() or 1)
    if count < 1:
        raise BadInputError(f"{count} is not positive", where=option)
    if count > most:
        raise BadInputError(f"{count} is more than this machine can use", where=option, hint=f"at most {most}")
