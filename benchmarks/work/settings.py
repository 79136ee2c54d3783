"""What is tuned about the baselines before they are measured. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HfSettings:
    """What may be tuned about ``generate`` on a CPU."""

    attention: str = "sdpa"
    """``sdpa`` or ``eager``."""
    cache: str = "dynamic"
    """``dynamic`` or ``static``."""
    compiled: bool = False
    """torch.compile of the forward pass over a static cache, weights frozen into the code; needs a C++ compiler."""
    threads: int | None = None
    """Compute threads; None leaves what the process was started with."""

    def label(self) -> str:
        """One cell of the sweep's table."""
        words = [self.attention, f"{self.cache} cache"] + ["compiled, frozen"] * self.compiled
        return ", ".join(words + [f"{self.threads} threads"] * (self.threads is not None))


EAGER_SWEEP = tuple(HfSettings(attention, cache) for attention in ("sdpa", "eager") for cache in ("dynamic", "static"))
"""The settings that need no compiler."""
COMPILED = HfSettings("sdpa", "static", compiled=True)


@dataclass(frozen=True)
class GenerateSettings:
    """What may be tuned about serving one model per application with ``generate``.

    Compiling is not: it would have to be done again at every load.
    """

    attention: str = "sdpa"
    """``sdpa`` or ``eager``."""
    cache: str = "dynamic"
    """``dynamic`` or ``static``."""
    threads: int = 1
    """Compute threads of a model."""
    at_once: int | None = 1
    """Models that may compute at a time; None for all."""

    @property
    def hf(self) -> HfSettings:
        """Those of a single call; the threads are the process's."""
        return HfSettings(self.attention, self.cache)

    def label(self) -> str:
        """One cell of the sweep's table."""
        return f"{self.hf.label()}, {self.threads} threads, {self.at_once or 'all'} models at a time"


@dataclass(frozen=True)
class BatchSettings:
    """What may be tuned about static batches of what waits."""

    requests: int = 16
    """Most requests in a batch."""
    attention: str = "sdpa"
    """``sdpa`` or ``eager``."""
    cache: str = "dynamic"
    """``dynamic`` or ``static``."""
    threads: int = 1
    """Compute threads of a batch."""
    at_once: int = 1
    """Batches, of different models, that may be computed at a time."""

    def label(self) -> str:
        """One cell of the sweep's table."""
        return (
            f"{HfSettings(self.attention, self.cache).label()}, up to {self.requests} requests a batch, "
            f"{self.threads} threads, {self.at_once} batches at a time"
        )


@dataclass(frozen=True)
class LlamaSettings:
    """What may be tuned about llama.cpp's server."""

    slots: int = 8
    """Sequences at a time; of a process for one application half as many, where adapters share another."""
    threads: int = 1
    """Compute threads of each process."""
    poll: int = 50
    """How busily threads wait, 0 to 100."""
    flash: str = "auto"
    """Flash attention: ``on``, ``off`` or ``auto``."""
    resident: int | None = None
    """Processes that the router keeps; None for adapters in one process and a process for every other application."""

    def label(self) -> str:
        """One cell of the sweep's table."""
        kind = "multi-LoRA and own processes" if self.resident is None else f"router, {self.resident} processes"
        return f"{kind}, {self.slots} slots, {self.threads} threads, poll {self.poll}, flash attention {self.flash}"


@dataclass(frozen=True)
class ContinuousSettings:
    """What may be tuned about continuous batching on a CPU."""

    attention: str = "sdpa"
    """``sdpa`` or ``eager``."""
    requests: int = 16
    """Requests of one model in a batch."""
    batch_tokens: int = 256
    """Tokens of one model in a batch."""
    pool_tokens: int = 2048
    """Tokens of KV cache for each model."""
    page: int = 16
    threads: int = 1
    """Compute threads of a model."""
    at_once: int | None = None
    """Models that may compute at a time; None for all."""

    def label(self) -> str:
        """One cell of the sweep's table."""
        return (
            f"{self.attention}, {self.requests} requests and {self.batch_tokens} tokens a batch, "
            f"{self.threads} threads, {self.at_once or 'all'} models at a time"
        )
