"""Measures the engine's own executors: each kind and shape of block once, over rows and contexts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from quiltwork.core.progress import Say, ignore
from quiltwork.layers.protocol import PAGE_TOKENS, Executor, PagedKV, Placement, Runs
from quiltwork.serving.profiles.measured import MeasuredBlock, signature
from quiltwork.serving.weights import Library, Read
from quiltwork.zoo.segments import kv_shape
from quiltwork.zoo.types import Chain


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    rows: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    context: int = 256
    """Tokens before a row where attention's share is measured."""
    repeats: int = 9
    warmup: int = 2


def measure(
    chain: Chain,
    read: Read,
    placement: Placement,
    *,
    clock: Callable[[], float],
    sizes: Sizes | None = None,
    seed: int = 0,
    progress: Say = ignore,
) -> dict[str, MeasuredBlock]:
    """Median times of every kind and shape of block in a chain, by ``signature``.

    Speed does not hang on what the rows hold: they are random. Up to the largest size each row is a sequence that
    decodes; attention's share is the difference that a longer context makes, per row and token, once for rows of many
    sequences and once for the rows of one prompt. Raises UnsupportedError naming what cannot be executed.
    """
    chosen = sizes or Sizes()
    found: dict[str, MeasuredBlock] = {}
    library = Library(placement)
    generator = torch.Generator().manual_seed(seed)
    for part in chain.links:
        name = signature(part.block)
        if name in found:
            continue
        progress(f"{part.name} ({part.block.kind})")
        loaded = library.acquire(part.block, read)
        arch = part.block.arch
        width = int(arch["hidden_size"])
        shape = kv_shape(arch)
        words = int(arch["vocab_size"]) if part.block.kind == "embed" else None
        bench = _Bench(loaded.executor, placement, clock, chosen, generator, shape, width, words)
        with torch.inference_mode():
            found[name] = bench.block(part.block.nbytes)
        library.release(loaded)
    return found


@dataclass
class _Bench:
    """One block under measurement."""

    executor: Executor
    placement: Placement
    clock: Callable[[], float]
    sizes: Sizes
    generator: torch.Generator
    shape: tuple[int, int] | None
    """Heads of keys and values, and their width."""
    width: int
    words: int | None
    """Of the vocabulary, where what comes in are token ids."""

    def block(self, weight_bytes: int) -> MeasuredBlock:
        rows, context = self.sizes.rows, self.sizes.context
        short = [self.seconds([1] * r, 0) for r in rows]
        context_s = prompt_s = 0.0
        kv_bytes = 0
        element = torch.empty((), dtype=self.placement.dtype).element_size()
        if self.shape is not None:
            some = min(16, rows[-1])
            longer = self.seconds([1] * some, context) - short[rows.index(some)] if some in rows else 0.0
            context_s = max(longer / (some * context), 0.0)
            chunk = min(64, rows[-1])
            prompt_s = max((self.seconds([chunk], context) - self.seconds([chunk], 0)) / (chunk * context), 0.0)
            kv_bytes = 2 * self.shape[0] * self.shape[1] * element
        return MeasuredBlock(
            tuple(zip(rows, short, strict=True)), context_s, prompt_s, weight_bytes, kv_bytes, self.width * element
        )

    def seconds(self, counts: Sequence[int], before: int) -> float:
        """Median seconds of a batch of runs of ``counts`` rows, each with ``before`` tokens before it."""
        device = self.placement.device
        runs = Runs(
            torch.cat([torch.arange(before, before + n, dtype=torch.int64) for n in counts]).to(device),
            torch.tensor([0, *torch.tensor(counts).cumsum(0).tolist()], dtype=torch.int32),
            torch.tensor([before + n for n in counts], dtype=torch.int32),
        )
        x = self._inputs(sum(counts)).to(device)
        kv = self._pages(counts, before)
        taken: list[float] = []
        for turn in range(self.sizes.warmup + self.sizes.repeats):
            begin = self.clock()
            self.executor(x, runs, kv)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn >= self.sizes.warmup:
                taken.append(self.clock() - begin)
        return median(taken)

    def _inputs(self, rows: int) -> Tensor:
        if self.words is not None:
            return torch.randint(self.words, (rows,), generator=self.generator)
        return torch.randn(rows, self.width, generator=self.generator).to(self.placement.dtype)

    def _pages(self, counts: Sequence[int], before: int) -> PagedKV | None:
        if self.shape is None:
            return None
        each = -(-(before + max(counts)) // PAGE_TOKENS)
        size = (each * len(counts), 2, self.shape[0], PAGE_TOKENS, self.shape[1])
        pool = torch.zeros(size, dtype=self.placement.dtype, device=self.placement.device)
        table = torch.arange(each * len(counts), dtype=torch.int32).reshape(len(counts), each)
        return PagedKV(pool, table)
