"""Which models are in the memory of one engine: room is made for one by dropping what is worth least."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import torch

from quiltwork.core.names import ModelRef
from quiltwork.serving.kv import KVCache
from quiltwork.serving.policy.placement import Resident, evictions
from quiltwork.serving.residency import Crowded, Wanted, needing, too_large
from quiltwork.serving.roster import Dimensions, Roster, dimensions
from quiltwork.serving.route import Served
from quiltwork.serving.weights import Content, Holding, attached_content, units, weight_bytes
from quiltwork.zoo.types import Block, Chain

KV_FLOOR_PART = 8
"""Weights leave this part of the memory to keys and values: an eighth."""
DEVICE_KV_PART = 4
"""Where pools of pages cannot give memory back (on a GPU), keys and values get this part, a quarter, for good."""


class EngineResidency(Wanted):
    """The models an engine may be asked for, and what of them is in memory. Belongs to the engine's thread.

    memory_bytes : cap on weights and KV together; None where nothing ever has to go.
    leaves : is told of each model that goes out of memory.
    largest_kv : bytes of keys and values that the largest sequence at hand may come to.
    """

    def __init__(
        self,
        roster: Roster,
        cache: KVCache,
        memory_bytes: int | None,
        max_model_len: int | None,
        clock: Callable[[], float],
        *,
        leaves: Callable[[ModelRef], None],
        largest_kv: Callable[[], int],
    ) -> None:
        super().__init__(clock)
        self._roster, self._cache = roster, cache
        self._memory, self._max_model_len = memory_bytes, max_model_len
        self._leaves, self._largest_kv = leaves, largest_kv
        self._weights: dict[Content, dict[Content, Holding]] = {}
        """Of blocks and attachments that have been in memory: what they hold there, and what it took to load."""
        self._coming: frozenset[Content] = frozenset()

    # --- the catalogue ------------------------------------------------------------------------------------------

    def offer(self, chain: Chain) -> Dimensions:
        """A model may be asked for from now on, in memory or not; those in memory may go for others.

        Raises UnsupportedError where it is no chain from embed to head, CapacityError where it is not in memory and
        does not fit even alone.
        """
        size = dimensions(chain, self._max_model_len)
        if self._memory is not None and not self.is_resident(chain.model.ref):
            together = sum(map(self._estimate, dict(units(chain.links)).values()))
            self._check_it_fits([chain], together + self._memory // KV_FLOOR_PART)
        self._roster.offered[chain.model.ref] = chain
        self._learn()
        if self._memory is not None:
            self._roster.library.store.keeps = True
            if self._cache.device.type != "cpu":
                self._roster.most_kv_bytes = self._memory // DEVICE_KV_PART
        return size

    def withdraw(self, ref: ModelRef) -> None:
        """A model that is out of service may be asked for no more; what only it needed goes."""
        chain = self._roster.offered.pop(ref, None)
        self.forget(ref)
        if chain is None:
            return
        kept: set[Content] = set()
        for other in (*self._roster.offered.values(), *(s.chain for s in self._roster.served.values())):
            kept.update(self._contents(other))
        self._roster.library.store.drop(set(self._contents(chain)) - kept)
        self._roster.settle()

    def is_resident(self, ref: ModelRef) -> bool:
        """Whether a model is in memory, and a request for it starts at once. Any thread."""
        return ref in self._roster.served

    def is_busy(self, ref: ModelRef) -> bool:
        """Whether sequences of a model are running or waiting in the engine."""
        served = self._roster.served.get(ref)
        return served is not None and served.running > 0

    def came(self) -> None:
        """What room was set apart for is in memory now, or will not come."""
        self._roster.reserved_bytes, self._coming = 0, frozenset()

    def loaded(self, seconds: float) -> None:
        """A model came into service."""
        self._learn()
        self.count(loads=1, load_seconds=seconds)

    def failed(self) -> None:
        """A model that room was made for did not come."""
        self.came()
        self._roster.settle()
        self.count(failures=1)

    # --- room ---------------------------------------------------------------------------------------------------

    def make_room(self, chains: Sequence[Chain]) -> Crowded | None:
        """Have the memory for chains that come together, evicting as little value as possible. None: it is set apart.

        Raises CapacityError where they cannot fit beside what is pinned, however long one waits; nothing is dropped
        then, nor where there is only no room now.
        """
        if self._memory is None:
            return None
        self._learn()
        held = self._roster.library.store.holdings()
        coming, unknown = self._holdings(chains)
        missing = [holding for content, holding in coming.items() if content not in held]
        need = unknown + sum(holding.nbytes for holding in missing)
        fixed = self._fixed() | set(coming)
        floor = self._kv_floor()
        self._check_it_fits(chains, need + sum(held[c].nbytes for c in fixed if c in held) + floor)
        floor = max(
            floor, self._cache.held_bytes, self._largest_kv(), self._kv_bytes(*self.awaited) if self.awaited else 0
        )
        short = self._roster.library.nbytes + need + floor - self._memory
        if short > 0 and not self._evict(held, short, fixed):
            would_go = evictions(self._residents(held), short, fixed | self._coming)
            models = self._needing(would_go) if would_go is not None else tuple(self._roster.served)
            return Crowded(frozenset(models), self._seconds(missing, unknown))
        self._roster.reserved_bytes, self._coming = need, frozenset(coming)
        self._roster.settle()
        return None

    def load_seconds(self, ref: ModelRef) -> float:
        """Expected seconds to bring an offered model into memory, by what loading has taken so far; 0 where it is."""
        chain = self._roster.offered.get(ref)
        if chain is None or self.is_resident(ref):
            return 0.0
        self._learn()
        held = self._roster.library.store.holdings()
        coming, unknown = self._holdings([chain])
        return self._seconds([holding for content, holding in coming.items() if content not in held], unknown)

    def _kv_bytes(self, ref: ModelRef, tokens: int) -> int:
        """Bytes of keys and values that a sequence with so many tokens takes; 0 where the model is not in memory."""
        served = self._roster.served.get(ref)
        return served.kv_bytes(tokens) if served is not None else 0

    def make_kv_room(self, ref: ModelRef, tokens: int) -> bool:
        """Let weights go where one sequence of ``ref`` with so many tokens, prompt and answer, needs more for keys and
        values than they leave.

        False where those in its way are in use now. Where it could not fit beside pinned weights alone nothing goes,
        and the engine will refuse it.
        """
        need = self._kv_bytes(ref, tokens)
        short = need - self._cache.capacity
        if self._memory is None or short <= 0 or self._roster.most_kv_bytes is not None:
            return True
        self._learn()
        held = self._roster.library.store.holdings()
        fixed = self._fixed() | set(self._contents(self._roster.served[ref].chain))
        if sum(held[c].nbytes for c in fixed if c in held) + need > self._memory:
            return True
        if not self._evict(held, short, fixed):
            return False
        self._roster.settle()
        return True

    def _check_it_fits(self, chains: Sequence[Chain], together: int) -> None:
        assert self._memory is not None
        if together > self._memory:
            raise too_large(chains[0].model.ref, together, self._memory)

    def _kv_floor(self) -> int:
        assert self._memory is not None
        least = self._memory // KV_FLOOR_PART
        return max(least, self._roster.most_kv_bytes or 0, self._cache.standing_bytes)

    def _evict(self, held: Mapping[Content, Holding], short: int, fixed: set[Content]) -> bool:
        """Free ``short`` bytes, or nothing."""
        chosen = evictions(self._residents(held), short, fixed | self._busy(held))
        if chosen is None:
            return False
        models = self._needing(chosen)
        before = self._roster.library.nbytes
        if models:
            self._roster.take_out(models)
        for ref in models:
            self._leaves(ref)
        self._roster.library.store.drop(chosen)
        self.count(evictions=len(models), evicted_bytes=before - self._roster.library.nbytes)
        return True

    def _residents(self, held: Mapping[Content, Holding]) -> list[Resident]:
        nbytes = {content: holding.nbytes for content, holding in held.items()}
        return self.residents(
            nbytes, self._roster.offered, self._served(), self._contents, lambda content: held[content].seconds
        )

    def _needing(self, contents: Collection[Content]) -> tuple[ModelRef, ...]:
        return needing(contents, self._served(), self._contents)

    def _served(self) -> dict[ModelRef, Chain]:
        return {ref: served.chain for ref, served in self._roster.served.items()}

    def _fixed(self) -> set[Content]:
        """What pinned models and drafts need."""
        served, stays = self._roster.served, self.pinned | self.drafts
        return {c for ref in stays if ref in served for c in self._contents(served[ref].chain)}

    def _busy(self, held: Mapping[Content, Holding]) -> set[Content]:
        """What running sequences need, and what is being loaded."""
        busy = set(self._coming)
        in_service: set[Content] = set()
        for served in self._roster.served.values():
            contents = set(self._contents(served.chain))
            in_service |= contents
            if served.running:
                busy |= contents
        return busy | {content for content, h in held.items() if h.refs and content not in in_service}

    # --- what models weigh --------------------------------------------------------------------------------------

    def _learn(self) -> None:
        """Note what the blocks now in memory hold."""
        new = [
            (unit, contents)
            for served in self._roster.served.values()
            for unit, contents in _loaded(served)
            if unit not in self._weights
        ]
        held = self._roster.library.store.holdings() if new else {}
        for unit, contents in new:
            self._weights[unit] = {content: held[content] for content in contents}

    def _contents(self, chain: Chain) -> Iterator[Content]:
        """What of the store a chain needs, as far as it has been in memory."""
        for unit, _ in units(chain.links):
            yield from self._weights.get(unit, ())

    def _estimate(self, blocks: Sequence[Block]) -> int:
        """Bytes of blocks in the precision they are computed with; what they share with others is counted."""
        width = torch.empty((), dtype=self._cache.dtype).element_size()
        return weight_bytes(blocks, width)

    def _holdings(self, chains: Sequence[Chain]) -> tuple[dict[Content, Holding], int]:
        """What chains hold as far as that is known, and the estimated bytes of the rest."""
        known: dict[Content, Holding] = {}
        unknown = 0
        for unit, blocks in {unit: blocks for chain in chains for unit, blocks in units(chain.links)}.items():
            if unit in self._weights:
                known |= self._weights[unit]
            else:
                unknown += self._estimate(blocks)
        return known, unknown

    def _seconds(self, missing: Sequence[Holding], unknown: int) -> float:
        known = [holding for unit in self._weights.values() for holding in unit.values()]
        nbytes = sum(holding.nbytes for holding in known)
        pace = sum(holding.seconds for holding in known) / nbytes if nbytes else 0.0
        return sum(holding.seconds for holding in missing) + unknown * pace


def _loaded(served: Served) -> Iterator[tuple[Content, Collection[Content]]]:
    for block, part in zip(served.loaded, served.chain.links, strict=True):
        yield (part.block.id,), block.weights.contents
        if part.attachments:
            name = attached_content(part.block, part.attachments)
            yield name, (name,)
