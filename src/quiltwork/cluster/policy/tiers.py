"""Where workers may go, best first, by the rules."""

from __future__ import annotations

from collections.abc import Sequence

from quiltwork.cluster.job import Shape
from quiltwork.cluster.policy.placing import Tier, Way
from quiltwork.cluster.policy.room import Shelf
from quiltwork.cluster.policy.rules import BaseOn, Rules
from quiltwork.cluster.server import Group, Pool


class Tiers:
    """The tiers of one cluster's shelves; each is found once."""

    def __init__(self, shelves: Sequence[Shelf], gpu_types: Sequence[str], rules: Rules) -> None:
        self._shelves, self._types, self._rules = shelves, gpu_types, rules
        self._base: dict[tuple[bool, bool], tuple[Tier, ...]] = {}
        self._ways: dict[tuple[bool, bool], tuple[Way, ...]] = {}
        self._flexible = [self._of_flexible(t) for t in gpu_types]

    def base(self, shape: Shape, revoking: bool = False) -> tuple[Tier, ...]:
        """Of a gang: training's own servers and, where it may run on them, lent ones.

        revoking : flexible workers leave."""
        found = self._base.get((shape.fungible, revoking))
        if found is None:
            found = self._base[shape.fungible, revoking] = self._of_base(shape.fungible, revoking)
        return found

    def ways(self, shape: Shape, pushing: bool) -> tuple[Way, ...]:
        """What is tried for a gang, one after another. pushing : whether flexible workers may have to leave for it.

        Where base demand goes on training's servers first, flexible workers leave those before it goes on lent ones:
        these are slow, and asked back.
        """
        found = self._ways.get((shape.fungible, pushing))
        if found is None:
            found = self._ways[shape.fungible, pushing] = self._found_ways(shape, pushing)
        return found

    def _found_ways(self, shape: Shape, pushing: bool) -> tuple[Way, ...]:
        if not pushing:
            return ((self.base(shape), False),)
        if self._rules.base_on is not BaseOn.TRAINING:
            return (self.base(shape), False), (self.base(shape, True), True)
        training = self.base(shape._replace(fungible=False))
        ways: list[Way] = [(training, False), (training, True)]
        for revoking in (False, True):
            lent = tuple(tier for tier in self.base(shape, revoking) if tier not in training)
            if lent:
                ways.append((lent, revoking))
        return tuple(ways)

    def flexible(self, gpu_type: int) -> tuple[Tier, ...]:
        """Of flexible workers on one type: training's own servers, then lent ones that only such workers are on."""
        return self._flexible[gpu_type]

    def _of_base(self, fungible: bool, revoking: bool) -> tuple[Tier, ...]:
        training = [tier for t in self._types for tier in self._find_gang(t, Pool.TRAIN, (Group.NONE,))]
        lent: list[Tier] = []
        if fungible and self._rules.loaning:
            groups = tuple(Group) if revoking or not self._rules.group_lent else (Group.NONE, Group.BASE)
            lent = [tier for t in self._types for tier in self._find_gang(t, Pool.ONLOAN, groups)]
        return tuple(training + lent if self._rules.base_on is BaseOn.TRAINING else lent + training)

    def _of_flexible(self, gpu_type: str) -> tuple[Tier, ...]:
        groups = (
            [(group,) for group in (Group.FLEX, Group.NONE, Group.BASE)] if self._rules.group_lent else [tuple(Group)]
        )
        lent = [tier for each in groups for tier in self._find(gpu_type, Pool.ONLOAN, each)]
        return tuple(self._find(gpu_type, Pool.TRAIN, (Group.NONE,)) + lent)

    def _find_gang(self, gpu_type: str, pool: Pool, groups: Sequence[Group]) -> list[Tier]:
        """Servers of one size, or, for a gang that none of these holds, of all sizes."""
        sizes = self._find(gpu_type, pool, groups)
        return [*sizes, tuple(shelf for tier in sizes for shelf in tier)] if len(sizes) > 1 else sizes

    def _find(self, gpu_type: str, pool: Pool, groups: Sequence[Group]) -> list[Tier]:
        """One tier for each size of servers, the smallest first."""
        found: dict[int, list[int]] = {}
        for i, shelf in enumerate(self._shelves):
            if shelf.gpu_type == gpu_type and shelf.pool is pool and shelf.group in groups:
                found.setdefault(shelf.gpus, []).append(i)
        return [tuple(found[gpus]) for gpus in sorted(found)]
