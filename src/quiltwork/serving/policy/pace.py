"""How often something has been asked for lately, and how long what waits for memory lets the others go on."""

from __future__ import annotations

import math
from dataclasses import dataclass

MEMORY_S = 300.0
"""Mean age in seconds at which a request stops counting."""
WORTH_LOADS = 4.0
"""Loads that a model must have been waited for before busy ones are held back for it: then at most a fifth of the time
goes into loading, however evenly more models than fit are asked for."""


@dataclass(frozen=True)
class Pace:
    """An exponentially weighted count of requests, as it stood at a time."""

    count: float = 0.0
    at: float = 0.0

    def counted(self, now: float, memory_s: float = MEMORY_S) -> Pace:
        """One request more at ``now`` (seconds by any clock that does not go back)."""
        return Pace(self._decayed(now, memory_s) + 1.0, now)

    def per_second(self, now: float, memory_s: float = MEMORY_S) -> float:
        """Requests per second of late."""
        return self._decayed(now, memory_s) / memory_s

    def _decayed(self, now: float, memory_s: float) -> float:
        return self.count * math.exp(-max(now - self.at, 0.0) / memory_s)


def worth_holding_back(waited_s: float, load_s: float) -> bool:
    """Whether what has been waited for so long, and takes ``load_s`` to load, may make busy models take no more
    requests until they can go."""
    return waited_s >= WORTH_LOADS * load_s
