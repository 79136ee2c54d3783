"""A trainable as the trainer sees it: built and warmed up, told its batch and rate, its state taken and given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from quiltwork.cluster.elastic.course import FIXED_LOCAL, Course, begun, rate_of, resized
from quiltwork.cluster.elastic.layout import Layout, layout_of
from quiltwork.cluster.elastic.settings import WorkerSettings
from quiltwork.cluster.elastic.sharing import Ids
from quiltwork.core.errors import BadInputError
from quiltwork.core.registry import resolve
from quiltwork.core.servable import Json
from quiltwork.core.trainable import Elastic, Gradients, Setup, State, StepReport, Trainable, Tunable

_WARM_UP = 4
"""Samples whose gradient is computed before a worker joins, so that whatever is made on first use is there then."""


class Work:
    """One trainable, and what goes with its state: steps done, and the course of batch and rate.

    Raises BadInputError where the settings ask for something that the trainable cannot do.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._config = _config(settings.config)
        self._trainable = self._build()
        self.elastic = isinstance(self._trainable, Elastic)
        self.layout = self._warm_up()
        self.done, self.finished = 0, False
        self.holds = False
        """Whether the state is a whole one of the job's, and not just that of a set-up."""
        self.course: Course | None = None
        self._rate: float | None = None

    def _build(self) -> Trainable:
        settings = self._settings
        trainable = resolve(settings.trainable)()
        if not isinstance(trainable, Trainable):
            raise BadInputError("does not make a Trainable", where=settings.trainable)
        tuned = settings.batch.mode == FIXED_LOCAL or settings.batch.size is not None or settings.lr is not None
        if tuned and not isinstance(trainable, Tunable):
            raise BadInputError(
                "cannot be given a batch or a learning rate", where=settings.trainable, hint="it is not Tunable"
            )
        if settings.logical is not None and not isinstance(trainable, Elastic):
            raise BadInputError(
                "cannot be computed in logical parts", where=settings.trainable, hint="it is not Elastic"
            )
        trainable.setup(Setup(self._config, settings.seed, settings.device, settings.workdir))
        return trainable

    def _warm_up(self) -> Layout | None:
        if not isinstance(self._trainable, Elastic):
            return None
        ids = self._trainable.next_samples()[:_WARM_UP]
        return layout_of(self._trainable.gradients(ids)) if len(ids) else Layout({}, {}, ())

    def next_samples(self) -> Ids:
        """The ids of the next step of all workers. Raises BadInputError where there are none."""
        assert isinstance(self._trainable, Elastic)
        ids = self._trainable.next_samples()
        if len(ids) == 0:
            raise BadInputError("gave no samples for a step", where="next_samples")
        return ids

    def gradients(self, ids: Ids) -> Gradients:
        assert isinstance(self._trainable, Elastic)
        return self._trainable.gradients(ids)

    def apply(self, mean: Gradients) -> StepReport:
        assert isinstance(self._trainable, Elastic)
        return self._noted(self._trainable.apply(mean))

    def step(self) -> StepReport:
        """A step of a trainable that is not elastic."""
        return self._noted(self._trainable.step())

    def _noted(self, report: StepReport) -> StepReport:
        self.done, self.finished = report.done, report.finished
        return report

    def resize(self, rank: int, workers: int) -> None:
        """Between two steps: there are so many workers now."""
        settings = self._settings
        if self.course is not None:
            self.course = resized(self.course, settings.batch.mode, workers, self.done)
        elif isinstance(self._trainable, Elastic) and not self.finished:
            size = settings.batch.size or len(self.next_samples())
            self.course = begun(settings.batch.mode, size, workers)
        if isinstance(self._trainable, Elastic):
            self._trainable.resize(rank, workers)
        tuned = settings.batch.mode == FIXED_LOCAL or settings.batch.size is not None
        if tuned and self.course is not None and isinstance(self._trainable, Tunable):
            self._trainable.set_batch(self.course.batch)
        self._rate = None

    def set_rate(self) -> None:
        """Tell the trainable the learning rate of its next step, where that is given and has changed."""
        if self._settings.lr is None or self.course is None or not isinstance(self._trainable, Tunable):
            return
        rate = rate_of(self.course, self._settings.lr, self.done)
        if rate != self._rate:
            self._trainable.set_learning_rate(rate)
            self._rate = rate

    def state(self) -> State:
        return self._trainable.state_dict()

    def load(self, state: State, done: int, finished: bool, course: Course | None) -> None:
        """Go on from that state. Raises BadInputError where it does not fit."""
        self.holds = False
        self._trainable.load_state_dict(state)
        self.done, self.finished, self.course = done, finished, course
        self.holds = True

    def begin_afresh(self) -> None:
        """Be at the very beginning, whatever was half received before."""
        if self.done or self.course is not None:
            self._trainable = self._build()
            self.done, self.finished, self.course = 0, False, None
        self.holds = True


def _config(path: str | None) -> Mapping[str, Json]:
    if path is None:
        return {}
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(f"cannot be read: {error.strerror}", where=path) from error
    except ValueError as error:
        raise BadInputError(f"is not JSON: {error}", where=path) from error
    if not isinstance(found, dict):
        raise BadInputError("is not a JSON object", where=path)
    return found
