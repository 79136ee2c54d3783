"""What a model is to learn, whichever task it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import Tensor

from quiltwork.layers.order import Ids
from quiltwork.moe.models.outcome import Outcome
from quiltwork.moe.models.packed import Packed
from quiltwork.moe.training.tokens import Codec

TRAIN, VALID, TEST = PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Run:
    """A model's forward over n samples of a part."""

    losses: Tensor
    """(n,): the mean over all samples of a part is nats per token, or per text of a classifier."""
    outcome: Outcome
    packed: tuple[Packed, ...]
    """Where tokens lie; of a translator the source's and the target's."""


Side = TypeVar("Side")


def side_of_layers(sides: Sequence[Side], layers: int) -> list[Side]:
    """Of each layer, in the order of ``Outcome.routed``, the side whose tokens pass it: a translator's first half of
    layers is passed by the source, the other by the target. sides : as ``Objective.lengths``."""
    return [sides[0 if at < layers // 2 else -1] for at in range(layers)]


class Objective(Protocol):
    """The samples of a task in three parts, and how a model fares with them."""

    @property
    def codec(self) -> Codec: ...
    @property
    def classes(self) -> tuple[str, ...]:
        """Of a classifier, else none."""
        ...

    @property
    def digest(self) -> str:
        """Of all that is learned from and measured on, and of the tokenizer."""
        ...

    @property
    def blank(self) -> int:
        """Rows of the training part that were left out since one side is blank."""
        ...

    def count(self, part: str) -> int:
        """Samples of a part."""
        ...

    def lengths(self, part: str) -> tuple[Ids, ...]:
        """Tokens of each sample, (samples,) for each of ``Run.packed``."""
        ...

    def run(self, model: Any, part: str, ids: Ids) -> Run:
        """Forward over these samples."""
        ...

    def scores(self, model: Any, part: str, size: int) -> Mapping[str, float]:
        """The task's own measures on all of a part, ``size`` samples at once."""
        ...
