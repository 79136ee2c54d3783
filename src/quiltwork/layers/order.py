"""The order in which a training takes its samples: one that is drawn, or one that learns from what was recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Rows = npt.NDArray[np.float32]


class Order(Protocol):
    """As ``core.sample_order.SampleOrder``: the same answer for the same position, on every worker."""

    def ids(self, taken: int, count: int) -> Ids:
        """The ids of the ``count`` samples that follow the first ``taken`` ones: (count,)."""
        ...


@runtime_checkable
class LearningOrder(Order, Protocol):
    """An order that hangs on what the training records of its samples: every worker is told the same of all of them."""

    @property
    def columns(self) -> int:
        """Numbers that are recorded of a sample."""
        ...

    def record(self, ids: Ids, rows: Rows, taken: int) -> None:
        """After a step: what was recorded of its samples, (n, columns), and how many samples are taken now."""
        ...

    def state(self) -> Mapping[str, npt.NDArray[np.generic]]:
        """A copy of all that further answers hang on."""
        ...

    def load(self, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Go on from ``state``. Raises BadInputError naming what does not fit."""
        ...
