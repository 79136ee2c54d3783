"""Links that are shared: what is sent waits for what is being sent."""

from __future__ import annotations

from quiltwork.serving.policy.cost import Link
from quiltwork.serving.simulate.world import FRONT, Cluster

CHUNK_BYTES = 1 << 20
"""Long messages go in pieces of this size, so that a short one waits for one piece at the most."""


class Network:
    """Who can send to whom, how fast, and until when each way is taken. The front is a server of its own."""

    def __init__(self, cluster: Cluster, front: Link | None = None) -> None:
        self._server = {device.agent: device.server for device in cluster.devices} | {FRONT: FRONT}
        self._inside, self._between, self._front = cluster.inside, cluster.between, front or _NONE
        self._free: dict[tuple[str, str], float] = {}
        self.fastest = max(link.bytes_per_s for link in (cluster.inside, cluster.between)) * 2
        """Bytes per second that no link reaches."""
        self.moved_bytes = 0.0
        """Sent between agents, in all."""
        self.between_bytes = 0.0
        """Of these between servers."""

    def link(self, source: str, target: str) -> Link:
        """The idle link; within one agent nothing costs anything."""
        if source == target:
            return _NONE
        if FRONT in (source, target):
            return self._front
        return self._inside if self._server[source] == self._server[target] else self._between

    def link_now(self, source: str, target: str, now: float) -> Link:
        """The link as it is: what is being sent on it counts as latency."""
        link = self.link(source, target)
        if source == target:
            return link
        wait = max(0.0, *(self._free.get(way, 0.0) - now for way in self._ways(source, target)))
        return link if wait == 0.0 else Link(link.latency_s + wait, link.bytes_per_s)

    def send(self, source: str, target: str, nbytes: float, now: float) -> float:
        """When ``nbytes`` sent now have arrived; takes the ways there."""
        if source == target:
            return now
        link = self.link(source, target)
        seconds = link.seconds(nbytes)
        ways = self._ways(source, target)
        free = max(now, *(self._free.get(way, 0.0) for way in ways))
        if nbytes <= CHUNK_BYTES:
            arrived = min(free, now + link.seconds(CHUNK_BYTES)) + seconds
            # The long message that it slipped into ends later for it.
            taken = max(free, now) + seconds
        else:
            arrived = taken = free + seconds
        for way in ways:
            self._free[way] = taken
        self.moved_bytes += nbytes
        if link is self._between:
            self.between_bytes += nbytes
        return arrived

    def _ways(self, source: str, target: str) -> tuple[tuple[str, str], tuple[str, str]]:
        here, there = self._server[source], self._server[target]
        return (("out of", source), ("into", target)) if here == there else (("out of", here), ("into", there))


_NONE = Link()
