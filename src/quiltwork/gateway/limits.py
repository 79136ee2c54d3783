"""How much one tenant may ask at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from quiltwork.core.errors import BadInputError, CapacityError


@dataclass(frozen=True)
class Limits:
    """What the door lets through. None means no limit."""

    body_bytes: int = 32 << 20
    concurrent: int | None = 512
    """Requests of one tenant at a time."""
    per_second: float | None = None
    """Requests of one tenant per second, on average."""
    burst: int = 32
    """Requests that may come at once after a quiet time, where ``per_second`` is set."""

    def __post_init__(self) -> None:
        for name in ("body_bytes", "concurrent", "per_second", "burst"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise BadInputError(f"{value} is not positive", where=name)


@dataclass
class TokenBucket:
    """``burst`` tokens at first, ``rate`` more per second, never above ``burst``; a request takes one."""

    rate: float
    burst: float
    tokens: float
    at: float
    """Seconds of the clock when ``tokens`` was right."""

    def take(self, now: float) -> float:
        """Take a token and return 0, or take none and return the seconds until there is one."""
        self.tokens = min(self.burst, self.tokens + max(0.0, now - self.at) * self.rate)
        self.at = now
        if self.tokens >= 1.0:
            self.tokens -= 1.0
            return 0.0
        return (1.0 - self.tokens) / self.rate


@dataclass
class Turnstile:
    """Counts the requests of each tenant. Used from one event loop."""

    limits: Limits
    clock: Callable[[], float]
    inside: dict[str, int] = field(default_factory=dict)
    _buckets: dict[str, TokenBucket] = field(default_factory=dict)

    @contextmanager
    def enter(self, tenant: str) -> Iterator[None]:
        """Be let in for the length of a ``with``. Raises CapacityError saying when to come again."""
        count = self.inside.get(tenant, 0)
        most = self.limits.concurrent
        if most is not None and count >= most:
            raise CapacityError(f"{count} requests of this tenant are running, as many as it may have", retry_after=1.0)
        if self.limits.per_second is not None:
            now, burst = self.clock(), float(self.limits.burst)
            bucket = self._buckets.setdefault(tenant, TokenBucket(self.limits.per_second, burst, burst, now))
            wait = bucket.take(now)
            if wait > 0:
                raise CapacityError(f"more than {self.limits.per_second:g} requests per second", retry_after=wait)
        self.inside[tenant] = count + 1
        try:
            yield
        finally:
            self.inside[tenant] -= 1
            if not self.inside[tenant]:
                del self.inside[tenant]
