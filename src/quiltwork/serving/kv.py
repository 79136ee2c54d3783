"""Paged keys and values: a pool per shape, and runs of pages that are shared by what they contain.

A *page run* holds PAGE_TOKENS tokens of every attention block of one segment. Its key is a hash of the tokens up to its
end and of the chain up to the segment's end, so that two models with equal lower blocks find each other's runs, and two
models of the same name with different weights never do. Where chains part ways the run also keeps the hidden state that
left the segment, so that a sibling model can start above it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from quiltwork.core.errors import CapacityError
from quiltwork.core.names import ModelRef
from quiltwork.layers.protocol import PAGE_TOKENS
from quiltwork.serving.fairness import Entitlements
from quiltwork.serving.owners import Owners
from quiltwork.serving.spare import drop_contents

Key = tuple[bytes, bytes]
"""Hash of the tokens up to the page's end; hash of the chain up to the segment's end."""

_BITES = 64
"""Free pages give memory back in bites of this part of the capacity: a little each time would cost more."""


def page_hash(before: bytes, tokens: Sequence[int]) -> bytes:
    """Hash of a token prefix one page longer than ``before``'s."""
    return hashlib.blake2b(np.asarray(tokens, dtype=np.int64).tobytes(), digest_size=24, key=before[:32]).digest()


def salted(before: bytes, salt: str) -> bytes:
    """``before``, set apart: prefixes under different salts never meet."""
    return hashlib.blake2b(salt.encode(), digest_size=24, key=before[:32]).digest()


@dataclass(frozen=True)
class KVShape:
    """What makes pages interchangeable."""

    num_kv_heads: int
    head_dim: int


class PagePool:
    """Pages of one shape: (pages, 2, num_kv_heads, PAGE_TOKENS, head_dim).

    On a CPU the whole range is reserved but memory is only touched page by page, lowest numbers first, and free pages
    can be cooled: their memory goes back to the system. Raises CapacityError where the range cannot be reserved.
    """

    def __init__(self, shape: KVShape, pages: int, dtype: torch.dtype, device: torch.device) -> None:
        size = (pages, 2, shape.num_kv_heads, PAGE_TOKENS, shape.head_dim)
        try:
            self.tensor: Tensor = torch.empty(size, dtype=dtype, device=device)
        except RuntimeError as error:  # more than can be addressed, or than the device has
            raise CapacityError(f"{pages} pages of keys and values cannot be reserved", where="memory") from error
        self.page_bytes = self.tensor[0].numel() * self.tensor.element_size() if pages else 0
        self._next = 0
        self._free: list[int] = []
        self._cold: list[int] = []

    @property
    def warm_bytes(self) -> int:
        """Bytes of pages that have memory behind them, in use or free."""
        touched = self._next - len(self._cold) if self.tensor.device.type == "cpu" else self.tensor.shape[0]
        return touched * self.page_bytes

    def warms(self, count: int) -> int:
        """Bytes by which taking ``count`` pages makes ``warm_bytes`` grow."""
        return max(count - len(self._free), 0) * self.page_bytes if self.tensor.device.type == "cpu" else 0

    def take(self, count: int) -> tuple[int, ...] | None:
        """``count`` page numbers, or None if there are not as many."""
        fresh = count - len(self._free) - len(self._cold)
        if fresh > self.tensor.shape[0] - self._next:
            return None
        taken = [self._free.pop() for _ in range(min(count, len(self._free)))]
        if len(taken) < count:
            taken.extend(self._cold.pop() for _ in range(min(count - len(taken), len(self._cold))))
        if fresh > 0:
            taken.extend(range(self._next, self._next + fresh))
            self._next += fresh
        return tuple(taken)

    def cool(self, nbytes: int) -> int:
        """Give the memory of free pages back to the system until that is ``nbytes``; returns how much it was."""
        if self.tensor.device.type != "cpu" or not self._free:
            return 0
        self._free.sort()
        count = min(-(-nbytes // self.page_bytes), len(self._free))
        cooled, self._free = self._free[-count:], self._free[:-count]
        begin = previous = cooled[0]
        for page in [*cooled[1:], -1]:
            if page != previous + 1:
                drop_contents(self.tensor, begin * self.page_bytes, (previous + 1) * self.page_bytes)
                begin = page
            previous = page
        self._cold.extend(cooled)
        return count * self.page_bytes

    def give_back(self, pages: Sequence[int]) -> None:
        """Make pages free again."""
        self._free.extend(pages)


@dataclass(eq=False)
class PageRun:
    """The pages of PAGE_TOKENS tokens in one segment. Shared by reference count; empty for a segment without KV."""

    pages: tuple[int, ...]
    pool: PagePool | None
    refs: int = 1
    key: Key | None = None
    activation: Tensor | None = None
    """(PAGE_TOKENS, d): the hidden state that left the segment, where a sibling may need it."""
    maker: tuple[ModelRef, str] | None = None
    """The model that computed it and the tenant who asked; set where it is published."""
    owner: str = ""
    """The tenant that computed it."""

    @property
    def nbytes(self) -> int:
        """Bytes of its pages and its activation."""
        return (len(self.pages) * self.pool.page_bytes if self.pool else 0) + self.activation_bytes

    @property
    def activation_bytes(self) -> int:
        """Bytes of its activation."""
        return 0 if self.activation is None else self.activation.numel() * self.activation.element_size()


@dataclass
class KVCounters:
    """Counts since the start."""

    queries: int = 0
    hits: int = 0
    evictions: int = 0


@dataclass
class KVCache:
    """All pages of an engine, under one budget in bytes.

    ``capacity`` covers held runs and cached ones; cached runs that nobody holds are evicted, least recently used first,
    when a new run needs the room, those of a tenant beyond its quota before all others; then the activations of held
    runs go. Losing either never changes an answer. Pages of all shapes together stay within the capacity, free ones
    included: where one shape grows, another's free pages give their memory back (on a CPU).
    """

    capacity: int
    dtype: torch.dtype
    device: torch.device
    keep: bool = True
    """Whether runs stay findable after the last holder has gone."""
    counters: KVCounters = field(default_factory=KVCounters)
    entitlements: Entitlements = field(default_factory=Entitlements)

    def __post_init__(self) -> None:
        self.owners: Owners[Key] = Owners(self.entitlements)
        self._pools: dict[KVShape, PagePool] = {}
        self._by_key: dict[Key, PageRun] = {}
        self._idle: OrderedDict[Key, PageRun] = OrderedDict()
        self._used = 0
        self._idle_bytes = 0
        self._kept = 0  # bytes of activations
        self._droppable: dict[int, PageRun] = {}  # held runs with an activation
        self._droppable_bytes = 0
        self._reserved = self.capacity

    @property
    def used_bytes(self) -> int:
        """Bytes of held and cached runs."""
        return self._used

    @property
    def free_bytes(self) -> int:
        """Bytes that a new run could have, evicting what nobody holds and dropping activations."""
        return self.capacity - self._used + self._idle_bytes + self._droppable_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes that running sequences hold."""
        return self._used - self._idle_bytes

    @property
    def standing_bytes(self) -> int:
        """Bytes of pools that cannot give memory back, whatever of them is in use: those of a GPU."""
        return 0 if self.device.type == "cpu" else sum(pool.warm_bytes for pool in self._pools.values())

    def pool(self, shape: KVShape) -> PagePool:
        """The pool of a shape, made on first use. On a GPU it takes what is left of the capacity, at most half."""
        if shape not in self._pools:
            width = torch.empty((), dtype=self.dtype).element_size()
            page_bytes = 2 * shape.num_kv_heads * PAGE_TOKENS * shape.head_dim * width
            share = self.capacity if not self._pools else self.free_bytes // 2
            if self.device.type == "cpu":
                share = self._reserved  # room may come back later, when models go
            self._pools[shape] = PagePool(shape, max(share // page_bytes, 0), self.dtype, self.device)
        return self._pools[shape]

    def allocate(self, pool: PagePool | None, blocks: int, owner: str = "") -> PageRun | None:
        """A fresh run of one page for each of ``blocks`` attention blocks, held once; None where there is no room."""
        if pool is None or blocks == 0:
            return PageRun((), None)
        need = blocks * pool.page_bytes
        if need > self.free_bytes:
            return None
        self._make_room(need)
        if len(self._pools) > 1 or self._kept:
            self._cool_to(self.capacity - self._kept - pool.warms(blocks), spare=pool)
        pages = pool.take(blocks)
        while pages is None and self._idle:
            self._evict_one()
            pages = pool.take(blocks)
        if pages is None:
            return None
        self._used += need
        self.owners.hold(owner, need)
        return PageRun(pages, pool, owner=owner)

    def find(self, key: Key) -> PageRun | None:
        """The run of that content, not yet held by the asker."""
        return self._by_key.get(key)

    def hold(self, run: PageRun) -> PageRun:
        """Hold a run once more."""
        if run.refs == 0 and run.key is not None:
            del self._idle[run.key]
            self._idle_bytes -= run.nbytes
            self.owners.resume(run.owner, run.key)
            self._may_drop(run)
        run.refs += 1
        return run

    def release(self, run: PageRun) -> None:
        """Hold a run once less; the last holder leaves it to the cache if it can be found there, else frees it."""
        run.refs -= 1
        if run.refs:
            return
        self._may_not_drop(run)
        if run.key is not None and self.keep:
            self._idle[run.key] = run
            self._idle_bytes += run.nbytes
            self.owners.keep(run.owner, run.key, run.nbytes)
        elif run.pages:
            self.owners.drop(run.owner, run.nbytes)
            self._forget(run)

    def publish(self, run: PageRun, key: Key, maker: tuple[ModelRef, str] | None = None) -> None:
        """Make a complete run findable. If another run has the same content already, this one stays private."""
        if self.keep and run.key is None and run.pages and key not in self._by_key:
            run.key, run.maker = key, maker
            self._by_key[key] = run

    def keep_activation(self, run: PageRun, hidden: Tensor) -> None:
        """Keep what left the segment with a published run, if there is room: (PAGE_TOKENS, d)."""
        size = hidden.numel() * hidden.element_size()
        room = self.free_bytes - self._droppable_bytes  # activations do not drive one another out
        if run.key is None or run.activation is not None or run.refs == 0 or size > room:
            return
        self._make_room(size)
        self._kept += size
        self._cool_to(self.capacity - self._kept)
        run.activation = hidden.clone()
        self._used += size
        self.owners.hold(run.owner, size)
        self._may_drop(run)

    def shrink_to(self, capacity: int) -> None:
        """Change the budget, evicting what no longer fits. Raises CapacityError where held runs alone exceed it."""
        if capacity < self.held_bytes - self._droppable_bytes:
            raise CapacityError("running sequences hold more", where="kv")
        self.capacity = capacity
        self._make_room(0)
        self._cool_to(capacity - self._kept)

    def clear(self) -> None:
        """Evict all that nobody holds."""
        while self._idle:
            self._evict_one()

    def _cool_to(self, nbytes: int, spare: PagePool | None = None) -> None:
        """Let free pages give memory back until all pools together have at most ``nbytes``; not those of ``spare``."""
        over = sum(pool.warm_bytes for pool in self._pools.values()) - nbytes
        for pool in self._pools.values():
            if over <= 0:
                return
            over -= 0 if pool is spare else pool.cool(max(over, self.capacity // _BITES))

    def _make_room(self, need: int) -> None:
        while self.capacity - self._used < need and self._idle:
            self._evict_one()
        while self.capacity - self._used < need and self._droppable:
            run = next(iter(self._droppable.values()))
            self._may_not_drop(run)
            self.owners.drop(run.owner, run.activation_bytes)
            self._drop_activation(run)
        if self.capacity - self._used < need:
            raise CapacityError("the KV cache is full", where="kv")

    def _evict_one(self) -> None:
        key = self.owners.beyond_quota(self.capacity)
        run = self._idle.pop(next(iter(self._idle)) if key is None else key)
        assert run.key is not None
        self._idle_bytes -= run.nbytes
        self.owners.forget(run.owner, run.key)
        self.counters.evictions += 1
        self._forget(run)

    def _forget(self, run: PageRun) -> None:
        self._drop_activation(run)
        self._used -= run.nbytes
        if run.key is not None:
            self._by_key.pop(run.key, None)
        if run.pool is not None:
            run.pool.give_back(run.pages)
        run.pages, run.pool, run.key = (), None, None

    def _may_drop(self, run: PageRun) -> None:
        if run.activation is not None:
            self._droppable[id(run)] = run
            self._droppable_bytes += run.activation_bytes

    def _may_not_drop(self, run: PageRun) -> None:
        if self._droppable.pop(id(run), None) is not None:
            self._droppable_bytes -= run.activation_bytes

    def _drop_activation(self, run: PageRun) -> None:
        self._used -= run.activation_bytes
        self._kept -= run.activation_bytes
        run.activation = None
