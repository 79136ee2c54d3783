"""How many experts each row of a served batch takes: the layer's own gate, or what the row's request asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.layers.protocol import Runs
from quiltwork.moe.gate import Gate
from quiltwork.moe.gates import READINGS, Adaptive
from quiltwork.moe.weights import WEIGHTS

OPTION = "experts"
"""The request option that is read, ``{"most": int or None, "threshold": float or None}``; None is the layer's own."""


@dataclass(frozen=True)
class Rule:
    """A layer's own gate: ``most`` experts at most, all but the first within ``threshold`` of it."""

    experts: int
    most: int
    threshold: float
    adaptive: bool
    reading: str
    weights: str

    def gate(self, runs: Runs) -> Gate:
        """The gate of a batch; of each row on its own where their requests ask for different numbers."""
        asked = [options.get(OPTION) for options in runs.options]
        if not any(asked):
            return Adaptive(self.threshold, self.most, self.reading, self.weights)
        pairs = [self._of(option) for option in asked]
        if len({*pairs}) == 1:
            return Adaptive(*pairs[0], self.reading, self.weights)
        return Adaptive(*self._per_row(runs, pairs), self.reading, self.weights)

    def _of(self, asked: Mapping[str, Any] | None) -> tuple[float, int]:
        """(threshold, most) of a sequence. A layer with a fixed number has the paper's threshold where it is asked to
        adapt without being told how."""
        if asked is None:
            return self.threshold, self.most
        own = self.threshold if self.adaptive else Adaptive.threshold
        threshold, most = asked.get("threshold"), asked.get("most")
        assert isinstance(own, float)
        return own if threshold is None else threshold, min(self.most if most is None else most, self.experts)

    def _per_row(self, runs: Runs, pairs: Sequence[tuple[float, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        rows = runs.per_row(pairs)
        return torch.tensor([row[0] for row in rows]), torch.tensor([row[1] for row in rows])


def read_rule(arch: Mapping[str, Any], experts: int) -> Rule:
    """The gate that the ``arch`` of a ``moe`` block describes.

    Raises UnsupportedError or BadInputError naming the key that is not as it must be.
    """
    kind, reading, weights = (
        _choice(arch, key, known)
        for key, known in (("gate", ("top_k", "adaptive")), ("reading", READINGS), ("weights", WEIGHTS))
    )
    threshold, most = arch.get("threshold"), arch.get("most")
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        raise BadInputError(f"must be a number, is {threshold!r}", where="arch.threshold")
    if type(most) is not int or not 1 <= most <= experts:
        raise BadInputError(f"must be 1 to {experts}, is {most!r}", where="arch.most")
    return Rule(experts, most, float(threshold), kind == "adaptive", reading, weights)


def _choice(arch: Mapping[str, Any], key: str, known: tuple[str, ...]) -> str:
    if arch.get(key) not in known:
        raise UnsupportedError(f"{arch.get(key)!r} is not implemented", where=f"arch.{key}", hint=", ".join(known))
    return str(arch[key])
