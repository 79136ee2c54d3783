"""What every tenant has been served, as an engine keeps it from step to step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quiltwork.serving.fairness import Entitlements, Standings, lifted


@dataclass(frozen=True)
class TenantStats:
    """How one tenant stands."""

    running: int = 0
    waiting: int = 0
    kv_held_bytes: int = 0
    kv_cached_bytes: int = 0
    """Of pages that nobody holds, kept for later requests."""
    prompt_tokens: int = 0
    """Prompt tokens computed for it, each once."""
    generated_tokens: int = 0
    served: float = 0.0
    """Its counter: price of its tokens by its weight, lifted where it came back."""


@dataclass
class _Account:
    prompt_tokens: int = 0
    generated_tokens: int = 0


class Ledger:
    """Counters of tenants."""

    def __init__(self, entitlements: Entitlements) -> None:
        self.entitlements = entitlements
        self._served: dict[str, float] = {}
        self._accounts: dict[str, _Account] = {}

    def arrives(self, tenant: str, waiting: tuple[str, ...], last: str | None) -> None:
        """A tenant with nobody waiting asks for something; ``waiting`` and ``last`` as for ``lifted``."""
        self._served[tenant] = lifted(tenant, self._served, waiting, last)

    def prompt(self, tenant: str, tokens: int, payer: str) -> None:
        """Prompt tokens of a tenant were computed; ``payer`` is whose counter goes up."""
        self._of(tenant).prompt_tokens += tokens
        self._charge(payer, tokens * self.entitlements.prompt_price)

    def generated(self, tenant: str, payer: str) -> None:
        """A token of a tenant was generated."""
        self._of(tenant).generated_tokens += 1
        self._charge(payer, self.entitlements.generated_price)

    def standings(self, held: Mapping[str, int], capacity: int) -> Standings:
        """How the tenants stand now: bytes held by each, bytes of all pages."""
        return Standings(self._served, held, capacity, self.entitlements)

    def stats(
        self, running: Mapping[str, int], waiting: Mapping[str, int], held: Mapping[str, int], cached: Mapping[str, int]
    ) -> dict[str, TenantStats]:
        """Every tenant that was ever here, by name."""
        nothing = _Account()
        return {
            tenant: TenantStats(
                running.get(tenant, 0),
                waiting.get(tenant, 0),
                held.get(tenant, 0),
                cached.get(tenant, 0),
                (account := self._accounts.get(tenant, nothing)).prompt_tokens,
                account.generated_tokens,
                self._served.get(tenant, 0.0),
            )
            for tenant in sorted({*self._accounts, *running, *waiting})
        }

    def _of(self, tenant: str) -> _Account:
        return self._accounts.setdefault(tenant, _Account())

    def _charge(self, payer: str, price: float) -> None:
        self._served[payer] = self._served.get(payer, 0.0) + price / self.entitlements.weight(payer)
