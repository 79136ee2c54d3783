"""The order of an epoch: random in buckets of alike length, or by what the epoch before showed of every sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError
from quiltwork.layers.order import Ids, Rows
from quiltwork.moe.curriculum.costs import CostModel
from quiltwork.moe.curriculum.groups import in_groups, length_buckets
from quiltwork.moe.curriculum.orders import (
    COSINE,
    COST,
    LENGTH,
    MEAN,
    RANDOM,
    UNLEARNT,
    cosine_order,
    cost_order,
    mean_order,
)

Counts = npt.NDArray[np.uint16]
_MOST = int(np.iinfo(np.uint16).max)


@dataclass(frozen=True)
class Plan:
    """How an epoch is put together."""

    lengths: Ids
    """(n,): what buckets are made by, and the order by length."""
    tokens: Ids
    """(n, L): of each sample in each layer."""
    costs: CostModel
    buckets: int
    """Of alike length; 1 for no regard to length."""
    group: int
    """Consecutive samples that stay together: a step's."""
    frozen: bool
    """Whether groups come from simple to complex, bucket by bucket; in a drawn order else."""
    seed: int

    def epoch(self, number: int, kind: str, extras: npt.NDArray[np.float64]) -> Ids:
        """(n,) the order of an epoch. kind : one of ``ORDERS``. extras : (n, L). What ties is in a drawn order."""
        draw = np.random.default_rng([self.seed, number])
        parts = [draw.permutation(bucket) for bucket in length_buckets(self.lengths, self.buckets)]
        ordered = np.concatenate([bucket[self._sorted(bucket, kind, extras)] for bucket in parts])
        # Drawn as they are, samples without buckets need no groups.
        drawn = None if self.frozen or (kind == RANDOM and self.buckets == 1) else draw
        return in_groups(ordered, number * len(self.lengths), self.group, drawn)

    def _sorted(self, bucket: Ids, kind: str, extras: npt.NDArray[np.float64]) -> Ids:
        if kind == COSINE:
            return cosine_order(extras[bucket], self.tokens[bucket])
        if kind == MEAN:
            return mean_order(extras[bucket], self.tokens[bucket])
        if kind == COST:
            return cost_order(self.costs.predict(extras)[bucket])
        if kind == LENGTH:
            return cost_order(self.lengths[bucket])
        return np.arange(len(bucket))


class LearnedOrder:
    """A ``LearningOrder``: the first epoch is random, each further one is by what is recorded when it begins; by length
    each one is alike.

    So it hangs on the routing of the epoch before; of the samples in a step that reaches from one epoch into the next,
    and of those alone, on what was recorded before that. A sample of which nothing is known yet counts as the mean of
    all others. Answers are for where training is, and on from there: earlier epochs are not kept.
    """

    def __init__(self, kind: str, plan: Plan) -> None:
        self._kind, self._plan = kind, plan
        shape = plan.tokens.shape
        self._latest, self._known = np.zeros(shape, np.uint16), np.zeros(shape[0], bool)
        self._basis, self._basis_known = self._latest.copy(), self._known.copy()
        self._epoch = 0
        self._made: dict[int, Ids] = {}

    @property
    def columns(self) -> int:
        """See ``LearningOrder``: a layer each."""
        return int(self._plan.tokens.shape[1])

    @property
    def records(self) -> Counts:
        """(n, L) a copy: extra experts of every sample's tokens, as they were last routed; 0 where not yet known."""
        return self._latest.copy()

    @property
    def costs(self) -> npt.NDArray[np.float64]:
        """(n,) predicted by what is recorded now."""
        return self._plan.costs.predict(_filled(self._latest, self._known))

    def ids(self, taken: int, count: int) -> Ids:
        """See ``Order``."""
        parts, samples = [np.empty(0, np.int64)], len(self._known)
        self._made = {epoch: order for epoch, order in self._made.items() if epoch >= taken // samples}
        while count > 0:
            epoch, start = divmod(taken, samples)
            part = self._of(epoch)[start : start + count]
            parts.append(part)
            taken, count = taken + len(part), count - len(part)
        return np.concatenate(parts)

    def record(self, ids: Ids, rows: Rows, taken: int) -> None:
        """See ``LearningOrder``."""
        reached = max(0, taken - 1) // len(self._known)
        if reached > self._epoch:  # the order of this epoch is in use: what it was made by stays
            self._epoch, self._basis, self._basis_known = reached, self._latest.copy(), self._known.copy()
        self._latest[ids] = np.clip(np.rint(rows), 0, _MOST).astype(np.uint16)
        self._known[ids] = True
        self._made = {epoch: order for epoch, order in self._made.items() if epoch == self._epoch}

    def state(self) -> Mapping[str, npt.NDArray[np.generic]]:
        """See ``LearningOrder``."""
        return {
            "latest": self._latest.copy(),
            "known": self._known.copy(),
            "basis": self._basis.copy(),
            "basis_known": self._basis_known.copy(),
            "epoch": np.array([self._epoch], np.int64),
        }

    def load(self, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """See ``LearningOrder``."""
        for name, own in self.state().items():
            given = arrays.get(name)
            if given is None or given.shape != own.shape or given.dtype != own.dtype:
                raise BadInputError("is not of these samples and layers", where=f"state: order/{name}")
        epoch = int(arrays["epoch"][0])
        if epoch < 0:
            raise BadInputError(f"{epoch} is no epoch", where="state: order/epoch")
        self._latest, self._known = arrays["latest"].astype(np.uint16), arrays["known"].astype(bool)
        self._basis, self._basis_known = arrays["basis"].astype(np.uint16), arrays["basis_known"].astype(bool)
        self._epoch, self._made = epoch, {}

    def _of(self, epoch: int) -> Ids:
        if epoch not in self._made:
            begun = epoch <= self._epoch
            counts, known = (self._basis, self._basis_known) if begun else (self._latest, self._known)
            kind = self._kind if self._kind in UNLEARNT or (epoch and known.any()) else RANDOM
            self._made[epoch] = self._plan.epoch(epoch, kind, _filled(counts, known))
        return self._made[epoch]


def _filled(counts: Counts, known: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Counts, and the mean of all that are known for all others."""
    filled = counts.astype(np.float64)
    if known.any():
        filled[~known] = filled[known].mean(0)
    return filled
