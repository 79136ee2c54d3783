"""Who among tenants comes next: pure decisions over what each has been served.

Every tenant has a counter of served tokens, prompt and generated ones at their own price, divided by its weight. Who
has the lowest counter starts next and computes first; who has the highest gives pages back first. A tenant that comes
back is lifted to the lowest counter among those who wait, so that nobody saves up service by staying away.

Source: Sheng et al., Fairness in Serving Large Language Models (OSDI 2024), algorithm 2 (VTC). Two differences: prompt
tokens count when they are computed, not when their request starts (what has started but is not computed counts as
pledged until then), and what was found in the cache does not count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from quiltwork.core.errors import BadInputError


class Claimant(Protocol):
    """What wants to be computed."""

    @property
    def id(self) -> int:
        """Unique."""
        ...

    @property
    def tenant(self) -> str:
        """Whose it is."""
        ...

    @property
    def pending(self) -> int:
        """Tokens known but not yet computed."""
        ...

    @property
    def holds(self) -> int:
        """Bytes of the pages it holds."""
        ...


Job = TypeVar("Job", bound=Claimant)


@dataclass(frozen=True)
class Entitlements:
    """What tenants may expect of a server that all of them want.

    Raises BadInputError naming the field that is out of range.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    """Tenant -> share relative to the others; 1 where absent."""
    kv_share: float = 1.0
    """Share of the KV memory that a tenant of weight 1 keeps when others want it too; 1 for no quota."""
    prompt_price: float = 1.0
    """Of a prompt token computed."""
    generated_price: float = 2.0
    """Of a token generated."""

    def __post_init__(self) -> None:
        for tenant, weight in self.weights.items():
            if not 0 < weight < float("inf"):
                raise BadInputError(f"{weight} of {tenant!r} is not positive", where="tenant_weights")
        if not 0 < self.kv_share <= 1:
            raise BadInputError(f"{self.kv_share} is not in (0, 1]", where="tenant_kv_share")

    def weight(self, tenant: str) -> float:
        """A tenant's share relative to the others."""
        return self.weights.get(tenant, 1.0)

    def quota_bytes(self, tenant: str, capacity: int) -> float:
        """KV bytes that a tenant keeps when others want them too."""
        return capacity if self.kv_share == 1 else min(self.kv_share * self.weight(tenant), 1.0) * capacity


@dataclass(frozen=True)
class Standings:
    """How the tenants stand when a step is planned. Nobody stands out where nothing is said."""

    served: Mapping[str, float] = field(default_factory=dict)
    """Price of all tokens served to a tenant, divided by its weight; lifted when it came back."""
    held: Mapping[str, int] = field(default_factory=dict)
    """Bytes of pages that a tenant's sequences hold, shared ones once; the sum over its jobs where absent."""
    capacity: int = 0
    """Bytes of all pages; 0 for no quota."""
    entitlements: Entitlements = Entitlements()

    def excess(self, tenant: str, holds: int) -> float:
        """Bytes beyond a tenant's quota that it holds; ``holds`` is what its jobs hold together."""
        if not self.capacity:
            return 0.0
        return self.held.get(tenant, holds) - self.entitlements.quota_bytes(tenant, self.capacity)

    def within_quota(self, tenant: str, need: int) -> bool:
        """Whether there is a quota and a tenant would keep to it with ``need`` bytes more."""
        return bool(self.capacity) and self.excess(tenant, 0) + need <= 0

    def price(self, tenant: str, tokens: int) -> float:
        """What computing prompt tokens adds to a tenant's counter."""
        return tokens * self.entitlements.prompt_price / self.entitlements.weight(tenant)


EQUALS = Standings()


def ranked(jobs: Sequence[Job], standings: Standings) -> tuple[list[Job], frozenset[int]]:
    """Jobs by their right to their pages, those that give way first at the end; and the ids of those beyond a quota.

    Beyond a quota are a tenant's youngest jobs, as many as hold the bytes that it has too many, but never its oldest:
    the oldest job of the least-served tenant comes before all others, so it always advances.

    jobs : oldest first; with one tenant they stay in this order.
    """
    of: dict[str, list[Job]] = {}
    for job in jobs:
        of.setdefault(job.tenant, []).append(job)
    if len(of) <= 1 and not standings.capacity:
        return list(jobs), frozenset()
    beyond: set[int] = set()
    for tenant, own in of.items():
        excess = standings.excess(tenant, sum(job.holds for job in own))
        for job in reversed(own[1:]):
            if excess <= 0:
                break
            beyond.add(job.id)
            excess -= job.holds
    age = {job.id: i for i, job in enumerate(jobs)}
    ordered = sorted(jobs, key=lambda job: (job.id in beyond, standings.served.get(job.tenant, 0.0), age[job.id]))
    return ordered, frozenset(beyond)


class Turns(Generic[Job]):
    """Whose prompt is computed next, within one step: the least-served tenant's, then its own jobs in their order.

    What a job is given in this step counts at once. A newcomer is weighed with what its tenant has been promised
    before: prompts that run but are not computed yet.

    running : jobs with prompt left, oldest first. waiting : newcomers, each tenant's in their order.
    """

    def __init__(self, running: Sequence[Job], waiting: Sequence[Job], standings: Standings) -> None:
        self._standings = standings
        self._lines: dict[str, deque[tuple[Job, bool]]] = {}
        self._given: dict[str, float] = {}
        self._pledged: dict[str, float] = {}
        for jobs, new in ((running, False), (waiting, True)):
            for job in jobs:
                self._lines.setdefault(job.tenant, deque()).append((job, new))
                if not new:
                    self._pledged[job.tenant] = self._pledged.get(job.tenant, 0.0) + self._price(job, job.pending)

    def take(self, *, newcomers: bool) -> tuple[Job, bool] | None:
        """The next job and whether it is a newcomer; None where there is none left. ``newcomers``: may one start?"""
        lines = [line for line in self._lines.values() if line and (newcomers or not line[0][1])]
        if not lines:
            return None
        line = lines[0] if len(lines) == 1 else min(lines, key=self._key)
        return line.popleft()

    def give(self, job: Job, tokens: int, *, new: bool) -> None:
        """A job is computed for ``tokens`` tokens in this step."""
        tenant = job.tenant
        self._given[tenant] = self._given.get(tenant, 0.0) + self._price(job, tokens)
        rest = self._price(job, job.pending - tokens) if new else -self._price(job, tokens)
        self._pledged[tenant] = self._pledged.get(tenant, 0.0) + rest

    def _price(self, job: Job, tokens: int) -> float:
        return self._standings.price(job.tenant, tokens)

    def _key(self, line: deque[tuple[Job, bool]]) -> tuple[float, bool, int]:
        job, new = line[0]
        counter = self._standings.served.get(job.tenant, 0.0) + self._given.get(job.tenant, 0.0)
        return counter + (self._pledged.get(job.tenant, 0.0) if new else 0.0), new, job.id


def lifted(tenant: str, served: Mapping[str, float], waiting: Iterable[str], last: str | None) -> float:
    """The counter of a tenant that has nobody waiting when its request arrives.

    waiting : the other tenants that wait. last : the tenant whose last waiting request started last, if any.
    """
    mine = served.get(tenant, 0.0)
    others = [served.get(other, 0.0) for other in waiting if other != tenant]
    if others:
        return max(mine, min(others))
    return max(mine, served.get(last, 0.0)) if last is not None else mine


def admits(wanted: int, tenant: str, inside: Mapping[str, int], room: int, entitlements: Entitlements) -> bool:
    """Whether a tenant's ``wanted`` sequences may join those that run or wait.

    While there is room anybody may. Beyond it a tenant may still have its share of the room among those who are there,
    so whoever filled it is refused and nobody else is. Who has nothing inside is let in whatever it wants. With n
    tenants the room holds at most 1 + 1/2 + ... + 1/n times what it is made for.

    inside : sequences that run or wait, by tenant.
    """
    mine = inside.get(tenant, 0)
    if not mine or sum(inside.values()) + wanted <= room:
        return True
    weights = sum(entitlements.weight(other) for other, count in sorted(inside.items()) if count)
    return mine + wanted <= room * entitlements.weight(tenant) / weights
