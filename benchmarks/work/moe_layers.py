"""Layers to be timed beside each other, forward and backward, and what they have to compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from quiltwork.core.bench import Context, Sample


@dataclass(frozen=True)
class Size:
    """T tokens, D wide, H in an expert, E experts."""

    tokens: int
    width: int
    inner: int
    experts: int

    def __str__(self) -> str:
        return f"({self.tokens}, {self.width}, {self.inner}, {self.experts})"


def initialise(module: nn.Module, seed: int) -> None:
    """Normal weights, of 0.02 as in Mixtral; the router's of 1 / sqrt(D), so that experts differ in probability."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        router = parameter.dim() == 2
        std = parameter.shape[-1] ** -0.5 if router else 0.02
        assert parameter.dim() in (2, 3), name
        nn.init.normal_(parameter, std=std, generator=generator)


@dataclass(frozen=True)
class Steps:
    """What is done with one layer in a round: so many times forward, or forward and backward."""

    layer: nn.Module
    of: Callable[[Tensor], Tensor]
    """The layer's output of x, whatever it returns beside it."""
    x: Tensor
    grad: Tensor
    times: int

    def forward(self) -> None:
        """Without gradients."""
        with torch.no_grad():
            for _ in range(self.times):
                self.of(self.x)

    def both(self) -> None:
        """With gradients of the weights and of x, which are dropped after each step as optimisers do."""
        for _ in range(self.times):
            x = self.x.requires_grad_()
            self.of(x).backward(self.grad)
            self.layer.zero_grad(set_to_none=True)
            x.grad = None


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch's threads, given back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def milliseconds(samples: Sequence[Sample], times: int) -> float:
    """Median processor time of one step."""
    return round(1e3 * median(sample.cpu_s for sample in samples) / times, 2)


def timed(context: Context, arms: Mapping[str, Steps], rounds: int) -> dict[str, tuple[list[Sample], list[Sample]]]:
    """Of each arm the samples forward and backward, and forward alone, all taken in turn."""
    calls: dict[str, Callable[[], None]] = {}
    for name, arm in arms.items():
        calls[f"{name} both"], calls[f"{name} forward"] = arm.both, arm.forward
    samples = context.interleave(calls, rounds, warmup=2)
    return {name: (samples[f"{name} both"], samples[f"{name} forward"]) for name in arms}
