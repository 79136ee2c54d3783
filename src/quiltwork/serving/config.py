"""How an engine is set up: one dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from quiltwork.core.errors import BadInputError
from quiltwork.serving.draft_length import MAX_DRAFT
from quiltwork.serving.fairness import Entitlements

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class EngineConfig:
    """Everything an engine needs to know; nothing else decides how it behaves.

    Raises BadInputError naming the field that is out of range.
    """

    max_model_len: int | None = None
    """Longest sequence in tokens; None takes each model's own limit."""
    max_num_seqs: int = 32
    """Sequences that may be in one step."""
    prefill_chunk: int = 128
    """Prompt tokens of one sequence that one step may compute; a multiple of the page size."""
    step_tokens: int = 256
    """Tokens of all sequences that one step may compute."""
    memory_bytes: int | None = None
    """Cap on weights, KV pages and cached activations together; None gives KV ``kv_bytes``."""
    kv_bytes: int = 1 << 30
    """Cap on KV pages and cached activations where ``memory_bytes`` is not given."""
    dtype: str = "auto"
    """Precision of the arithmetic; ``auto`` is float32 on the CPU and bfloat16 elsewhere."""
    device: str = "cpu"
    prefix_cache: bool = True
    """Keep computed pages for later requests with the same prefix."""
    tenant_kv_share: float = 1.0
    """Share of the KV memory that a tenant of weight 1 keeps when others want it too; 1 for no quota."""
    tenant_weights: Mapping[str, float] = field(default_factory=dict)
    """Tenant -> its share relative to the others, of computing, KV memory and waiting room; 1 where absent."""
    tenant_fairness: bool = True
    """Whether the tenant served least comes first; else whoever came first, whosever it is."""
    draft_tokens: int | None = None
    """Tokens drafted per step for a sequence whose model has a draft; None finds the number that pays."""

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "prefill_chunk", "step_tokens", "kv_bytes"):
            if getattr(self, name) <= 0:
                raise BadInputError(f"{getattr(self, name)} is not positive", where=name)
        for name in ("max_model_len", "memory_bytes"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise BadInputError(f"{value} is not positive", where=name)
        Entitlements(self.tenant_weights, self.tenant_kv_share)
        if self.draft_tokens is not None and not 0 <= self.draft_tokens <= MAX_DRAFT:
            raise BadInputError(f"{self.draft_tokens} is not from 0 to {MAX_DRAFT}", where="draft_tokens")
        if self.prefill_chunk % 16:
            raise BadInputError(f"{self.prefill_chunk} is not a multiple of 16", where="prefill_chunk")
        if self.step_tokens < self.prefill_chunk:
            raise BadInputError("smaller than prefill_chunk", where="step_tokens")
        if self.dtype not in DTYPES:
            raise BadInputError(f"{self.dtype!r} is not one of {', '.join(DTYPES)}", where="dtype")

    @property
    def entitlements(self) -> Entitlements:
        """What tenants may expect."""
        return Entitlements(self.tenant_weights, self.tenant_kv_share)
