"""How fast a job runs with so many workers on GPUs of each type."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quiltwork.core.errors import BadInputError

MIXED_EFFICIENCY = 0.7
"""Of a run over two GPU types at once, where nothing better is known."""


@dataclass(frozen=True, eq=False)
class Speed:
    """A job's speed in reference workers: 1 is one worker on the reference GPU type.

    ``curves`` : by GPU type, what 1, 2, 3 ... workers do together; flat beyond the last. A type that is not there
    cannot run the job. ``mixing`` : the share that is left of a run over several types at once.

    Two speeds are the same only if they are one object, so that what is derived from one may be kept by it.
    """

    curves: Mapping[str, tuple[float, ...]]
    mixing: float = MIXED_EFFICIENCY

    def __post_init__(self) -> None:
        for gpu_type, curve in self.curves.items():
            if not curve or not all(0 < value < math.inf for value in curve):
                raise BadInputError("a speed curve needs positive numbers", where=gpu_type)
        if not 0 < self.mixing <= 1:
            raise BadInputError(f"{self.mixing} is not a share above 0", where="mixing")

    def on(self, gpu_type: str, workers: int) -> float:
        """Of ``workers`` on one type; 0 without workers or where the type cannot run the job."""
        curve = self.curves.get(gpu_type)
        if curve is None or workers < 1:
            return 0.0
        return curve[min(workers, len(curve)) - 1]

    def of(self, counts: Sequence[int], gpu_types: Sequence[str]) -> float:
        """Of workers on several types at once: each type's workers do their share of what all would do on that type."""
        workers = sum(counts)
        most = max(counts, default=0)
        if most == workers:
            return self.on(gpu_types[counts.index(most)], workers) if workers else 0.0
        mixed = 0.0
        for gpu_type, count in zip(gpu_types, counts, strict=True):
            if count:
                part = self.on(gpu_type, workers)
                if not part:
                    return 0.0
                mixed += count * part
        return self.mixing * mixed / workers


def linear(capability: Mapping[str, float], most: int, mixing: float = MIXED_EFFICIENCY) -> Speed:
    """Every worker adds what the first does, up to ``most`` workers; ``capability`` is one worker's by type."""
    return Speed({t: tuple(c * n for n in range(1, most + 1)) for t, c in capability.items()}, mixing)
