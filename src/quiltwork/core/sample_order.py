"""Which sample comes when: shuffled epochs, one after the other, read from any position in steps of any size."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError


class SampleOrder:
    """An endless run through ``samples`` samples, each epoch in an order of its own that hangs on the seed alone.

    Like a bookmark in a book that is read again and again: the one number to keep is how many samples were taken, and
    whoever has it goes on exactly there, with as large a batch as they like. Raises BadInputError without samples.
    """

    def __init__(self, samples: int, seed: int) -> None:
        if samples < 1:
            raise BadInputError(f"{samples} is not a number of samples", where="samples")
        self._samples, self._seed = samples, seed
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def ids(self, taken: int, count: int) -> npt.NDArray[np.int64]:
        """The ids of the ``count`` samples that follow the first ``taken`` ones: (count,) int64.

        A batch that reaches beyond the end of an epoch goes on in the next.
        """
        parts = []
        while count > 0:
            epoch, start = divmod(taken, self._samples)
            part = self._of(epoch)[start : start + count]
            parts.append(part)
            taken, count = taken + len(part), count - len(part)
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _of(self, epoch: int) -> npt.NDArray[np.int64]:
        if epoch != self._epoch:
            self._order = np.random.default_rng([self._seed, epoch]).permutation(self._samples)
            self._epoch = epoch
        return self._order
