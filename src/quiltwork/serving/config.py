"""How an engine is set up: one dataclass."""

from __future__ import annotations

from dataclasses import dataclass

from quiltwork.core.errors import BadInputError

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

    def __post_init__(self) -> None:
        for field in ("max_num_seqs", "prefill_chunk", "step_tokens", "kv_bytes"):
            if getattr(self, field) <= 0:
                raise BadInputError(f"{getattr(self, field)} is not positive", where=field)
        for field in ("max_model_len", "memory_bytes"):
            value = getattr(self, field)
            if value is not None and value <= 0:
                raise BadInputError(f"{value} is not positive", where=field)
        if self.prefill_chunk % 16:
            raise BadInputError(f"{self.prefill_chunk} is not a multiple of 16", where="prefill_chunk")
        if self.step_tokens < self.prefill_chunk:
            raise BadInputError("smaller than prefill_chunk", where="step_tokens")
        if self.dtype not in DTYPES:
            raise BadInputError(f"{self.dtype!r} is not one of {', '.join(DTYPES)}", where="dtype")
