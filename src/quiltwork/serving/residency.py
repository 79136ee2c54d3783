"""Which of the models that may be asked for are in memory: what every engine's residency tells and keeps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from quiltwork.core.errors import CapacityError
from quiltwork.core.names import ModelRef
from quiltwork.core.units import format_bytes
from quiltwork.serving.policy.pace import Pace
from quiltwork.serving.policy.placement import Resident
from quiltwork.serving.roster import Dimensions
from quiltwork.serving.weights import Content
from quiltwork.zoo.types import Chain

LEAST_SECONDS_PER_BYTE = 1e-9
"""A mapped file is there at once and read when it is touched: no weight comes back cheaper than this."""


@dataclass(frozen=True)
class ResidencyCounters:
    """What came and went since the start."""

    loads: int = 0
    load_seconds: float = 0.0
    failures: int = 0
    evictions: int = 0
    """Models that had to go."""
    evicted_bytes: int = 0


@dataclass(frozen=True)
class Crowded:
    """There is no room now, for the models in it are running."""

    models: frozenset[ModelRef]
    """Those that would have to go."""
    load_s: float
    """What loading would take, as far as is known."""


class Residency(Protocol):
    """The models an engine may be asked for, and which of them are in memory. Belongs to the engine's thread."""

    counters: ResidencyCounters
    pinned: frozenset[ModelRef]
    """Models that never go."""
    drafts: set[ModelRef]
    """Models that draft for others: they do not go either."""
    awaited: tuple[ModelRef, int] | None
    """The model and the tokens of a sequence that waits until weights in its way can go."""

    def offer(self, chain: Chain) -> Dimensions:
        """A model may be asked for from now on, in memory or not; those in memory may go for others.

        Raises UnsupportedError where it is no chain from embed to head, CapacityError where it is not in memory and
        does not fit even alone.
        """
        ...

    def withdraw(self, ref: ModelRef) -> None:
        """A model that is out of service may be asked for no more; what only it needed goes."""
        ...

    def pin(self, ref: ModelRef) -> None:
        """Nothing of a model goes any more, once it is in memory."""
        ...

    def unpin(self, ref: ModelRef) -> None:
        """A model may go again. Harmless where it was not pinned."""
        ...

    def is_resident(self, ref: ModelRef) -> bool:
        """Whether a model is in memory, and a request for it starts at once. Any thread."""
        ...

    def is_busy(self, ref: ModelRef) -> bool:
        """Whether sequences of a model are running or waiting in the engine."""
        ...

    def asked(self, ref: ModelRef) -> None:
        """A request for a model has come."""
        ...

    def make_room(self, chains: Sequence[Chain]) -> Crowded | None:
        """Have the memory for chains that come together, evicting as little value as possible. None: it is set apart.

        Raises CapacityError where they cannot fit beside what is pinned, however long one waits; nothing is dropped
        then, nor where there is only no room now.
        """
        ...

    def came(self) -> None:
        """What room was set apart for is in memory now, or will not come."""
        ...

    def loaded(self, seconds: float) -> None:
        """A model came into service."""
        ...

    def failed(self) -> None:
        """A model that room was made for did not come."""
        ...

    def load_seconds(self, ref: ModelRef) -> float:
        """Expected seconds to bring an offered model into memory, by what loading has taken so far; 0 where it is."""
        ...

    def make_kv_room(self, ref: ModelRef, tokens: int) -> bool:
        """Let weights go where one sequence of ``ref`` with so many tokens, prompt and answer, needs more for keys and
        values than they leave.

        False where those in its way are in use now. Where it could not fit beside pinned weights alone nothing goes,
        and the engine will refuse it.
        """
        ...


class Wanted:
    """What a residency knows of models wherever they are: how often they are asked for, which must stay, what came and
    went. clock : seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.counters = ResidencyCounters()
        self.pinned: frozenset[ModelRef] = frozenset()
        self.drafts: set[ModelRef] = set()
        self.awaited: tuple[ModelRef, int] | None = None
        self._clock = clock
        self._paces: dict[ModelRef, Pace] = {}

    def pin(self, ref: ModelRef) -> None:
        """Nothing of a model goes any more, once it is in memory."""
        self.pinned |= {ref}

    def unpin(self, ref: ModelRef) -> None:
        """A model may go again. Harmless where it was not pinned."""
        self.pinned -= {ref}

    def asked(self, ref: ModelRef) -> None:
        """A request for a model has come."""
        self._paces[ref] = self._paces.get(ref, Pace()).counted(self._clock())

    def rate(self, ref: ModelRef) -> float:
        """Requests for a model per second of late."""
        return self._paces.get(ref, Pace()).per_second(self._clock())

    def forget(self, ref: ModelRef) -> None:
        """Nobody may ask for a model any more."""
        self.unpin(ref)
        self._paces.pop(ref, None)

    def residents(
        self,
        held: Mapping[Content, int],
        offered: Mapping[ModelRef, Chain],
        served: Mapping[ModelRef, Chain],
        contents: Callable[[Chain], Iterable[Content]],
        seconds: Callable[[Content], float],
    ) -> list[Resident]:
        """What is in memory, as eviction sees it: what it would take to bring back, and who asks for it how often.

        held : bytes of each. offered : chains that may be asked for. served : those in memory. contents : of a chain.
        seconds : that it takes to load one.
        """
        rates = dict.fromkeys(held, 0.0)
        needed: dict[Content, set[str]] = {}
        for ref, chain in {**offered, **served}.items():
            rate = self.rate(ref)
            for content in contents(chain):
                if content in held:
                    rates[content] += rate
                    if ref in served:
                        needed.setdefault(content, set()).add(str(ref))
        return [
            Resident(
                content, nbytes, rates[content], max(seconds(content), nbytes * LEAST_SECONDS_PER_BYTE),
                needed_by=frozenset(needed.get(content, ())),
            )
            for content, nbytes in held.items() if nbytes
        ]  # fmt: skip

    def count(
        self,
        *,
        loads: int = 0,
        load_seconds: float = 0.0,
        failures: int = 0,
        evictions: int = 0,
        evicted_bytes: int = 0,
    ) -> None:
        """Count what came, went or did not come."""
        c = self.counters
        self.counters = ResidencyCounters(
            c.loads + loads,
            c.load_seconds + load_seconds,
            c.failures + failures,
            c.evictions + evictions,
            c.evicted_bytes + evicted_bytes,
        )


def needing(
    gone: Collection[Content], served: Mapping[ModelRef, Chain], contents: Callable[[Chain], Iterable[Content]]
) -> tuple[ModelRef, ...]:
    """Models in memory that cannot run without one of these."""
    lost = set(gone)
    return tuple(ref for ref, chain in served.items() if not lost.isdisjoint(contents(chain)))


def too_large(ref: ModelRef, together: int, memory: int) -> CapacityError:
    """A model needs ``together`` bytes with all that must be there beside it, of ``memory``."""
    return CapacityError(
        f"needs {format_bytes(together)}, what is pinned and the least for keys and values included, "
        f"of {format_bytes(memory)}",
        where=str(ref),
        hint="raise --memory",
    )
