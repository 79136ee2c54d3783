"""What all executors share: how attachments are made ready and arranged for a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quiltwork.core.errors import BadInputError
from quiltwork.layers.attachments import Attached, PartBatch, PartShape, attach, gather
from quiltwork.layers.protocol import Gathered, LoadedAttachment, Runs


class AttachablePart:
    """The ``attach`` and ``gather`` of an Executor, given what its block offers to hang attachments on."""

    def __init__(self, shape: PartShape) -> None:
        self._shape = shape

    def attach(self, attachments: Sequence[Any]) -> Attached:
        """See ``Executor.attach``."""
        return attach(self._shape, attachments)

    def gather(
        self, attached: Sequence[LoadedAttachment | None], scales: Sequence[float], runs: Runs
    ) -> PartBatch | None:
        """See ``Executor.gather``."""
        return gather(self._shape, attached, scales, runs)


def batch_of(gathered: Gathered | None) -> PartBatch | None:
    """``gathered`` as this room made it. Raises BadInputError for anything else."""
    if gathered is not None and not isinstance(gathered, PartBatch):
        raise BadInputError(f"{type(gathered).__name__} was not made by gather()", where="gathered")
    return gathered
