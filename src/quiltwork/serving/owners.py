"""Whose pages a cache holds: bytes by tenant, and whose go first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from quiltwork.serving.fairness import Entitlements

Key = TypeVar("Key")


class Owners(Generic[Key]):
    """Bytes that tenants' sequences hold and bytes that are kept for them, least recently used first.

    A page belongs to the tenant that computed it, also where others may share it.
    """

    def __init__(self, entitlements: Entitlements) -> None:
        self._entitlements = entitlements
        self._kept: dict[str, OrderedDict[Key, int]] = {}
        self.held: dict[str, int] = {}
        """Bytes in use by tenant."""
        self.idle: dict[str, int] = {}
        """Bytes that nobody uses by tenant."""

    def hold(self, owner: str, nbytes: int) -> None:
        """More bytes are in use."""
        self.held[owner] = self.held.get(owner, 0) + nbytes

    def drop(self, owner: str, nbytes: int) -> None:
        """Bytes in use were freed."""
        self.held[owner] -= nbytes

    def keep(self, owner: str, key: Key, nbytes: int) -> None:
        """What was in use is kept."""
        self.held[owner] -= nbytes
        self.idle[owner] = self.idle.get(owner, 0) + nbytes
        self._kept.setdefault(owner, OrderedDict())[key] = nbytes

    def resume(self, owner: str, key: Key) -> None:
        """What was kept is in use again."""
        self.hold(owner, self.forget(owner, key))

    def forget(self, owner: str, key: Key) -> int:
        """What was kept is kept no more; its bytes."""
        nbytes = self._kept[owner].pop(key)
        self.idle[owner] -= nbytes
        return nbytes

    def beyond_quota(self, capacity: int) -> Key | None:
        """What the tenant furthest beyond its quota has not used for longest, kept pages counted; None without one."""
        if self._entitlements.kv_share == 1:
            return None
        excess = {
            owner: self.held.get(owner, 0) + self.idle[owner] - self._entitlements.quota_bytes(owner, capacity)
            for owner, kept in self._kept.items()
            if kept
        }
        furthest = max(sorted(excess), key=lambda owner: excess[owner], default=None)
        return next(iter(self._kept[furthest])) if furthest is not None and excess[furthest] > 0 else None
