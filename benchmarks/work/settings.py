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
