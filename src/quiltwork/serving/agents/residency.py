"""Which models agents hold: room is made for one by having others forgotten that are worth least."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from quiltwork.core.errors import CapacityError
from quiltwork.core.names import ModelRef
from quiltwork.core.units import format_bytes
from quiltwork.serving.agents.holdings import WEIGHTS_PART, Holdings, Laying
from quiltwork.serving.agents.placing import Cuts, Expected, Planned, arrange, held_bytes
from quiltwork.serving.policy.placement import Place, Resident, evictions
from quiltwork.serving.residency import Crowded, Wanted, needing, too_large
from quiltwork.serving.roster import Dimensions, dimensions
from quiltwork.serving.weights import Content, units, weight_bytes
from quiltwork.zoo.types import Chain


class AgentResidency(Wanted):
    """The models that may be asked for, and which of them agents hold. Belongs to the engine's thread.

    A model is held as a whole or not at all: agents free what nobody else needs of one that leaves.

    leaves : takes a model out of service, which has agents forget it.
    in_use : the layouts that sequences run on, those that wait included.
    """

    def __init__(
        self,
        holdings: Holdings,
        max_model_len: int | None,
        clock: Callable[[], float],
        *,
        leaves: Callable[[ModelRef], None],
        in_use: Callable[[], Collection[Laying]],
    ) -> None:
        super().__init__(clock)
        self._holdings, self._max_model_len = holdings, max_model_len
        self._leaves, self._in_use = leaves, in_use
        self._coming_bytes = self._loaded_bytes = 0
        self._loaded_s = 0.0

    # --- the catalogue ------------------------------------------------------------------------------------------

    def offer(self, chain: Chain) -> Dimensions:
        """See ``Residency``."""
        size, ref = dimensions(chain, self._max_model_len), chain.model.ref
        if not self.is_resident(ref):
            self._check_it_fits({ref: chain}, beside=())
        self._holdings.offered[ref] = chain
        return size

    def withdraw(self, ref: ModelRef) -> None:
        """See ``Residency``; what only it needed went when it was taken out of service."""
        self._holdings.offered.pop(ref, None)
        self.forget(ref)

    def is_resident(self, ref: ModelRef) -> bool:
        """See ``Residency``."""
        return ref in self._holdings.models

    def is_busy(self, ref: ModelRef) -> bool:
        """See ``Residency``."""
        placed = self._holdings.models.get(ref)
        return placed is not None and placed.now in self._in_use()

    def came(self) -> None:
        """See ``Residency``."""
        self._holdings.set_apart = {}

    def loaded(self, seconds: float) -> None:
        """See ``Residency``."""
        self._loaded_s += seconds
        self._loaded_bytes += self._coming_bytes
        self.count(loads=1, load_seconds=seconds)

    def failed(self) -> None:
        """See ``Residency``."""
        self.came()
        self._holdings.abandon()
        self._holdings.forget(self._in_use())
        self.count(failures=1)

    def load_seconds(self, ref: ModelRef) -> float:
        """See ``Residency``."""
        chain = self._holdings.offered.get(ref)
        return 0.0 if chain is None or self.is_resident(ref) else self._seconds(self._missing_bytes([chain]))

    # --- room for weights ---------------------------------------------------------------------------------------

    def make_room(self, chains: Sequence[Chain]) -> Crowded | None:
        """See ``Residency``. While an agent is gone that will be back there is no room either."""
        holdings, stays = self._holdings, self.pinned | self.drafts
        self._coming_bytes = self._missing_bytes(chains)
        if holdings.share is None:
            return None
        coming = {chain.model.ref: chain for chain in chains}
        self._check_it_fits(coming, beside=stays)
        if holdings.restarts and holdings.contact.gone:
            return Crowded(frozenset(), self._seconds(self._coming_bytes))
        in_use = self._in_use()
        holdings.forget(in_use)
        awaited = self._kv_needed(*self.awaited) if self.awaited is not None else {}
        expected = holdings.expected({**holdings.models, **coming})
        room = _Room(holdings, coming, holdings.places(awaited), holdings.cuts(coming), expected)
        fixed = self._contents(*(p.chain for r, p in holdings.models.items() if r in stays), *chains)
        busy = fixed | self._contents(*(laying.chain for laying in in_use))
        leaving = self._worth_least(lambda models: room.without(models, in_use), busy)
        if leaving is None:
            # What models have in common with those that stay or come may stand in the way where it stands now.
            idle = [ref for ref, p in holdings.models.items() if ref not in stays and p.now not in in_use]
            leaving = tuple(idle) if room.without(idle, in_use) is not None else None
        if leaving is None:
            would_go = self._worth_least(lambda models: room.without(models, ()), fixed)
            models = frozenset(holdings.models if would_go is None else would_go)
            return Crowded(models, self._seconds(self._coming_bytes))
        found = room.without(leaving, in_use)
        assert found is not None
        self._evict(leaving)
        holdings.set_apart = found
        return None

    def _check_it_fits(self, coming: Mapping[ModelRef, Chain], beside: Collection[ModelRef]) -> None:
        """Raise CapacityError where models do not fit even with only those beside them that must stay."""
        holdings = self._holdings
        if holdings.share is None:
            return
        staying = {r: p.now for r, p in holdings.models.items() if r in beside and r not in coming}
        old = [p.now for r, p in holdings.models.items() if r in beside and r in coming]
        places = [Place(name, WEIGHTS_PART * holdings.share) for name in holdings.contact.names]
        if arrange(staying, coming, old, places, holdings.cuts(coming), holdings.width) is not None:
            return
        ref, memory = next(iter(coming)), holdings.share * len(places)
        weights = self._nbytes(*coming.values(), *(laying.chain for laying in (*staying.values(), *old)))
        if weights > WEIGHTS_PART * memory:
            raise too_large(ref, weights + round((1 - WEIGHTS_PART) * memory), memory)
        raise CapacityError(
            f"a part of it fits no agent's {format_bytes(round(WEIGHTS_PART * holdings.share))} for weights, beside "
            "what is pinned",
            where=str(ref),
            hint="raise --memory, or have fewer agents",
        )

    def _worth_least(
        self, fits: Callable[[Collection[ModelRef]], object | None], busy: Collection[Content]
    ) -> tuple[ModelRef, ...] | None:
        """Models whose leaving has the others fit, as little value as possible; None where there are none such."""
        if fits(()) is not None:
            return ()
        residents, need = self._residents(self._all_held()), 1.0
        while (chosen := evictions(residents, need, busy)) is not None:
            leaving = self._needing(chosen)
            if fits(leaving) is not None:
                # Some may have been chosen before that turned out not to be in the way.
                for ref in sorted(leaving, key=self.rate, reverse=True):
                    fewer = tuple(other for other in leaving if other != ref)
                    if fits(fewer) is not None:
                        leaving = fewer
                return leaving
            need = 1.0 + sum(
                r.nbytes for r in residents if r.instance not in busy and r.needed_by <= set(map(str, leaving))
            )
        return None

    def _evict(self, models: Collection[ModelRef]) -> None:
        before = sum(self._all_held().values())
        for ref in models:
            self._leaves(ref)
        self.count(evictions=len(models), evicted_bytes=before - sum(self._all_held().values()))

    # --- room for keys and values -------------------------------------------------------------------------------

    def make_kv_room(self, ref: ModelRef, tokens: int) -> bool:
        """See ``Residency``."""
        holdings, needs = self._holdings, self._kv_needed(ref, tokens)
        if holdings.share is None:
            return True
        short = {agent: need - self.kv_capacity(agent, holdings.share) for agent, need in needs.items()}
        if max(short.values(), default=0) <= 0:
            return True
        stays = self.pinned | self.drafts | {ref}
        fixed = self._contents(*(p.chain for r, p in holdings.models.items() if r in stays))
        busy = fixed | self._contents(*(laying.chain for laying in self._in_use()))
        chosen: set[Content] = set()
        for agent, need in needs.items():
            here = holdings.held.get(agent, {})
            if sum(nbytes for content, nbytes in here.items() if content in fixed) + need > holdings.share:
                return True
            found = evictions(self._residents(here), short[agent], busy)
            if found is None:
                return False
            chosen.update(found)
        self._evict(self._needing(chosen))
        return True

    def kv_capacity(self, agent: str, share: int) -> int:
        """Bytes of keys and values that an agent's weights leave of its share, those on their way included."""
        coming = held_bytes(self._holdings.set_apart.values(), self._holdings.width)
        return share - sum({**self._holdings.held.get(agent, {}), **coming.get(agent, {})}.values())

    def _kv_needed(self, ref: ModelRef, tokens: int) -> dict[str, int]:
        placed = self._holdings.models.get(ref)
        return placed.needs(tokens + placed.virtual_tokens) if placed is not None else {}

    # --- what models weigh --------------------------------------------------------------------------------------

    def _all_held(self) -> Mapping[Content, int]:
        """Bytes of what is held, on all agents together."""
        held: Counter[Content] = Counter()
        for here in self._holdings.held.values():
            held.update(here)
        return held

    def _residents(self, held: Mapping[Content, int]) -> list[Resident]:
        return self.residents(
            held, self._holdings.offered, self._served(), self._contents, lambda content: self._seconds(held[content])
        )

    def _needing(self, contents: Collection[Content]) -> tuple[ModelRef, ...]:
        return needing(contents, self._served(), self._contents)

    def _served(self) -> dict[ModelRef, Chain]:
        return {ref: placed.chain for ref, placed in self._holdings.models.items()}

    def _contents(self, *chains: Chain) -> set[Content]:
        return {content for chain in chains for content, _ in units(chain.links)}

    def _nbytes(self, *chains: Chain) -> int:
        """Bytes of chains together, what they share once."""
        parts = dict(unit for chain in chains for unit in units(chain.links))
        return sum(weight_bytes(blocks, self._holdings.width) for blocks in parts.values())

    def _missing_bytes(self, chains: Sequence[Chain]) -> int:
        held = self._all_held()
        parts = dict(unit for chain in chains for unit in units(chain.links) if unit[0] not in held)
        return sum(weight_bytes(blocks, self._holdings.width) for blocks in parts.values())

    def _seconds(self, nbytes: int) -> float:
        """What loading so many bytes takes, by what it has taken so far."""
        return nbytes * self._loaded_s / self._loaded_bytes if self._loaded_bytes else 0.0


@dataclass(frozen=True)
class _Room:
    """Whether models that come would fit."""

    holdings: Holdings
    coming: Mapping[ModelRef, Chain]
    places: Sequence[Place]
    cuts: Cuts
    expected: Expected | None

    def without(self, leaving: Collection[ModelRef], in_use: Collection[Laying]) -> dict[ModelRef, Planned] | None:
        """How all would stand with some models gone; None where they do not fit."""
        models = {ref: placed for ref, placed in self.holdings.models.items() if ref not in leaving}
        staying = {ref: placed.now for ref, placed in models.items() if ref not in self.coming}
        # Of a model that comes in another version, the present one is there until then.
        old = [placed.now for ref, placed in models.items() if ref in self.coming]
        return arrange(
            staying, self.coming, [*in_use, *old], self.places, self.cuts, self.holdings.width, self.expected
        )
