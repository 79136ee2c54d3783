"""Training on one machine, in one process: step after step, with a checkpoint now and then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from quiltwork.core.checkpoint import CheckpointFile
from quiltwork.core.errors import BadInputError
from quiltwork.core.trainable import StepReport, Trainable


@dataclass(frozen=True)
class Ran:
    """How far a run came."""

    report: StepReport | None
    """Of the last step; None where it was stopped before the first."""
    resumed: bool
    """Whether it went on from a checkpoint."""

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.report is not None and self.report.finished


def run_training(
    trainable: Trainable,
    checkpoint: CheckpointFile,
    *,
    every: int,
    stop: Callable[[], bool],
    tell: Callable[[StepReport], None],
) -> Ran:
    """Go on from the checkpoint, where there is one, to the end, or until ``stop`` says so between two steps.

    trainable : set up already.
    every : steps between two checkpoints; one more is written at the end, however that came.
    tell : told of every step.

    Raises BadInputError where the checkpoint does not fit, and what the trainable and the checkpoint raise.
    """
    state = checkpoint.read()
    checkpoint.require_place()  # else all steps to the first checkpoint are for nothing
    if state is not None:
        try:
            trainable.load_state_dict(state)
        except BadInputError as error:
            hint = error.hint or "name another checkpoint, or remove this one to begin anew"
            raise BadInputError(error.what, where=f"{checkpoint.path}: {error.where}", hint=hint) from error
    report = None
    while not stop():
        report = trainable.step()
        tell(report)
        if report.finished:
            break
        if report.done % every == 0:
            checkpoint.write(trainable.state_dict())
    checkpoint.write(trainable.state_dict())
    return Ran(report, state is not None)
