"""The two clusters that a study is about: how many servers, of how many GPUs, of which types."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from quiltwork.cluster.curves import CAPABILITY, T4, V100
from quiltwork.cluster.server import Server
from quiltwork.cluster.simulate.workload import two_clusters
from quiltwork.core.errors import BadInputError

MOST_SERVERS = 200_000
MOST_GPUS = 1024
"""Of one server."""


@dataclass(frozen=True)
class Fleet:
    """``train`` servers of one GPU type are training's, ``infer`` of another, or the same, are inference's.

    ``types`` : training's and inference's. ``capability`` : how fast one worker is on each, relative to each other.
    """

    train: int
    infer: int = 0
    gpus_per_server: int = 8
    types: tuple[str, str] = (V100, T4)
    capability: Mapping[str, float] = field(default_factory=lambda: CAPABILITY)

    def __post_init__(self) -> None:
        for name, least, most in (
            ("train", 1, MOST_SERVERS),
            ("infer", 0, MOST_SERVERS),
            ("gpus_per_server", 1, MOST_GPUS),
        ):
            if not least <= getattr(self, name) <= most:
                raise BadInputError(f"{getattr(self, name)} is not from {least} to {most:,}", where=name)
        for gpu_type in self.types:
            if gpu_type not in self.capability:
                hint = f"say how fast it is, where a V100 is 1: {gpu_type}=2.5; known: {', '.join(CAPABILITY)}"
                raise BadInputError(f"{gpu_type!r} is of no known speed", where="types", hint=hint)
            if not 0 < self.capability[gpu_type] < math.inf:
                raise BadInputError(f"{self.capability[gpu_type]} is not a speed", where=f"types: {gpu_type}")

    @property
    def training_gpus(self) -> int:
        return self.train * self.gpus_per_server

    @property
    def gpu_types(self) -> tuple[str, ...]:
        """Each type once, the fastest first."""
        return tuple(sorted(dict.fromkeys(self.types), key=lambda t: -self.capability[t]))

    @property
    def relative(self) -> dict[str, float]:
        """One worker's speed by type; 1 on training's."""
        return {t: self.capability[t] / self.capability[self.types[0]] for t in dict.fromkeys(self.types)}

    def servers(self) -> list[Server]:
        return two_clusters(self.train, self.infer, gpus=self.gpus_per_server, types=self.types)


def types_of(text: str) -> tuple[tuple[str, str], dict[str, float]]:
    """``V100,T4``, or ``A100=2.5,T4=0.33``: training's type and inference's, and the speeds of those that are known.

    One type alone is both clusters'. Raises BadInputError.
    """
    capability = dict(CAPABILITY)
    names: list[str] = []
    for part in text.split(","):
        name, told, value = (piece.strip() for piece in part.partition("="))
        if not name or (told and not value):
            raise BadInputError(
                f"{part.strip()[:40]!r} names no GPU type", where="types", hint="V100,T4 or A100=2.5,T4"
            )
        if told:
            try:
                capability[name] = float(value)
            except ValueError as error:
                raise BadInputError(f"{value[:40]!r} is not a speed", where=f"types: {name}") from error
        names.append(name)
    if len(names) > 2:
        raise BadInputError(f"{len(names)} GPU types", where="types", hint="training's, and then inference's")
    return (names[0], names[-1]), {name: capability[name] for name in capability if name in names or name in CAPABILITY}
