"""Where GPUs are free: servers in buckets by how many of theirs are, one set of buckets per kind of server.

A bucket is an integer whose bits are servers. The server with the least room that is enough is then the lowest bit of
the first bucket that is not zero: a few machine words to look at, and a copy for a what-if costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from quiltwork.cluster.server import Group, Pool, Server, group_of
from quiltwork.core.errors import BadInputError

CLOSED = -1
"""The shelf of a server that takes no work: inference's own, or one that is being emptied."""


class Shelf(NamedTuple):
    """A kind of server. Only lent ones have a group."""

    pool: Pool
    gpu_type: str
    group: Group
    gpus: int


class Room:
    """Free GPUs by server. ``free`` counts those without a worker; ``reach`` adds those of flexible workers, which have
    to leave for base demand.

    ``shelves`` : the kinds of servers; buckets are ``open[shelf][free]`` and ``within[shelf][reach]``, servers' bits by
    their places in what the room was made from.
    """

    def __init__(self, servers: Sequence[Server]) -> None:
        self.gpus = [s.gpus for s in servers]
        self.free = list(self.gpus)
        self.reach = list(self.gpus)
        self.shelves: list[Shelf] = []
        kinds = sorted({(s.gpu_type, s.gpus) for s in servers})
        for gpu_type, gpus in kinds:
            self.shelves.append(Shelf(Pool.TRAIN, gpu_type, Group.NONE, gpus))
            self.shelves.extend(Shelf(Pool.ONLOAN, gpu_type, group, gpus) for group in Group)
        self._place = {shelf: i for i, shelf in enumerate(self.shelves)}
        self._train = [self._place[Shelf(Pool.TRAIN, s.gpu_type, Group.NONE, s.gpus)] for s in servers]
        self.open = [[0] * (shelf.gpus + 1) for shelf in self.shelves]
        self.within = [[0] * (shelf.gpus + 1) for shelf in self.shelves]
        self.shelf = [CLOSED] * len(servers)
        self.grown = 0
        """Counts the times at which something was freed: what did not fit does not fit before the next."""
        for at, server in enumerate(servers):
            if server.pool in (Pool.TRAIN, Pool.ONLOAN):
                self.admit(at, server.pool)

    def copy(self) -> Room:
        """The same room, for asking what would be."""
        other = object.__new__(Room)
        other.gpus, other.shelves, other._place, other._train = self.gpus, self.shelves, self._place, self._train
        other.grown = self.grown
        other.free, other.reach, other.shelf = self.free[:], self.reach[:], self.shelf[:]
        other.open = [buckets[:] for buckets in self.open]
        other.within = [buckets[:] for buckets in self.within]
        return other

    def admit(self, server: int, pool: Pool) -> None:
        """Let a closed server take work, as training's own or as lent."""
        if self.shelf[server] != CLOSED:
            raise BadInputError("the server takes work already", where=f"server {server}")
        shelf = self._train[server]
        if pool is Pool.ONLOAN:
            shelf += 1 + _group(self.gpus[server], self.free[server], self.reach[server])
        self.shelf[server] = shelf
        self.grown += 1
        bit = 1 << server
        self.open[shelf][self.free[server]] |= bit
        self.within[shelf][self.reach[server]] |= bit

    def close(self, server: int) -> None:
        """Place nothing on a server from now on; what runs there may go on."""
        shelf = self.shelf[server]
        if shelf != CLOSED:
            bit = 1 << server
            self.open[shelf][self.free[server]] ^= bit
            self.within[shelf][self.reach[server]] ^= bit
            self.shelf[server] = CLOSED

    def take(self, server: int, gpus: int, flexible: bool = False) -> None:
        """Workers of a job come. Raises BadInputError where there is no room."""
        if gpus > self.free[server]:
            raise BadInputError(f"{gpus} GPUs of {self.free[server]} free ones", where=f"server {server}")
        self._change(server, -gpus, 0 if flexible else -gpus)

    def give(self, server: int, gpus: int, flexible: bool = False) -> None:
        """Workers of a job go. Raises BadInputError where there were not so many."""
        if self.free[server] + gpus > self.gpus[server]:
            raise BadInputError(f"{gpus} GPUs given back that were not taken", where=f"server {server}")
        self.grown += 1
        self._change(server, gpus, 0 if flexible else gpus)

    def keep(self, server: int, gpus: int) -> None:
        """Flexible workers become base demand: they do not have to leave any more."""
        self._change(server, 0, -gpus)

    def _change(self, server: int, free: int, reach: int) -> None:
        shelf, was_free, was_reach = self.shelf[server], self.free[server], self.reach[server]
        now_free, now_reach = was_free + free, was_reach + reach
        self.free[server], self.reach[server] = now_free, now_reach
        if shelf == CLOSED:
            return
        bit = 1 << server
        train = self._train[server]
        if shelf != train:
            target = train + 1 + _group(self.gpus[server], now_free, now_reach)
            if target != shelf:
                self.open[shelf][was_free] ^= bit
                self.within[shelf][was_reach] ^= bit
                self.open[target][now_free] |= bit
                self.within[target][now_reach] |= bit
                self.shelf[server] = target
                return
        if free:
            buckets = self.open[shelf]
            buckets[was_free] ^= bit
            buckets[now_free] |= bit
        if reach:
            buckets = self.within[shelf]
            buckets[was_reach] ^= bit
            buckets[now_reach] |= bit

    def shelf_of(self, server: int) -> Shelf | None:
        """A server's kind; None where it is closed."""
        return None if self.shelf[server] == CLOSED else self.shelves[self.shelf[server]]

    def servers(self, shelf: int) -> Iterator[int]:
        """The servers of a shelf, by place."""
        mask = 0
        for bucket in self.open[shelf]:
            mask |= bucket
        yield from bits(mask)


_GROUPS = {group: i for i, group in enumerate(Group)}


def _group(gpus: int, free: int, reach: int) -> int:
    return _GROUPS[group_of(gpus - free, reach - free)]


def bits(mask: int) -> Iterator[int]:
    """The places of the bits that are set, from the lowest."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
