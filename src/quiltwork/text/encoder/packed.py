"""BERT's relatives computed on sentences laid end to end: no padding, one core per call, few passes over memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from quiltwork.text.encoder.families import Layer, Network
from quiltwork.text.encoder.kernels import add_norm, bias_gelu, embed_norm
from quiltwork.text.encoder.weights import Floats, frozen

Ids = npt.NDArray[np.int64]

_OTHERS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "swish": F.silu,
}


@dataclass(frozen=True)
class _Weights:
    """A layer's weights as they are used; matrices (in, out)."""

    qkv: torch.Tensor
    qkv_bias: torch.Tensor
    out: torch.Tensor
    out_bias: Floats
    norm: tuple[Floats, Floats]
    up: torch.Tensor
    up_bias: Floats
    down: torch.Tensor
    down_bias: Floats
    last_norm: tuple[Floats, Floats]


@dataclass(frozen=True)
class _Run:
    """Sentences of one length that follow each other."""

    start: int
    count: int
    length: int


class Packed:
    """An encoder of BERT's family. Called from several threads at once, each call computes on one."""

    def __init__(self, network: Network) -> None:
        self.width, self.longest = network.width, network.longest
        pad = network.padding_position
        self._words, self._norm, self._eps = network.words, network.norm, network.eps
        self._positions = frozen(network.positions if pad is None else np.concatenate([network.positions, pad[None]]))
        self._padding, self._heads, self._activation = network.padding, network.heads, network.activation
        self._layers = [_weights(layer) for layer in network.layers]
        self._near = None if network.near is None else torch.from_numpy(network.near)

    def __call__(self, sentences: Sequence[Ids]) -> torch.Tensor:
        """The tokens' vectors (n, d), one sentence after the other."""
        ids, d = np.concatenate(sentences), self.width
        runs, n = _runs(sentences), len(ids)
        x = np.empty((n, d), np.float32)
        embed_norm(self._words, self._positions, ids, self._places(sentences), *self._norm, self._eps, x)
        with torch.inference_mode():
            state = torch.from_numpy(x)
            qkv, mixed, product = torch.empty(n, 3 * d), torch.empty(n, d), torch.empty(n, d)
            for layer in self._layers:
                torch.addmm(layer.qkv_bias, state, layer.qkv, out=qkv)
                self._attend(qkv, runs, mixed)
                torch.mm(mixed, layer.out, out=product)
                add_norm(product.numpy(), layer.out_bias, x, *layer.norm, self._eps, x)
                high = self._activate(torch.mm(state, layer.up), layer.up_bias)
                torch.mm(high, layer.down, out=product)
                add_norm(product.numpy(), layer.down_bias, x, *layer.last_norm, self._eps, x)
            return state

    def _attend(self, qkv: torch.Tensor, runs: Sequence[_Run], mixed: torch.Tensor) -> None:
        """Softmax attention within each sentence; those of one length at once, so that none is padded."""
        for run in runs:
            rows = slice(run.start, run.start + run.count * run.length)
            parts = qkv[rows].view(run.count, run.length, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
            near = None if self._near is None else self._bias(run.length)
            found = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=near, scale=1.0)
            mixed[rows].view(run.count, run.length, self._heads, -1).copy_(found.transpose(1, 2))

    def _bias(self, length: int) -> torch.Tensor:
        """(heads, length, length) what is added to the score of query i and key j."""
        assert self._near is not None
        places = torch.arange(length)
        return self._near[:, self._near.shape[1] // 2 + places[None, :] - places[:, None]]

    def _activate(self, high: torch.Tensor, bias: Floats) -> torch.Tensor:
        if self._activation == "gelu":
            bias_gelu(high.numpy(), bias)
            return high
        return _OTHERS[self._activation](high.add_(torch.from_numpy(bias.copy())))

    def _places(self, sentences: Sequence[Ids]) -> Ids:
        """Each token's row of positions."""
        if self._padding is None:
            return np.concatenate([np.arange(len(one)) for one in sentences])
        places = []
        for one in sentences:
            there = one != self._padding
            places.append(np.where(there, np.cumsum(there) - 1, len(self._positions) - 1))
        return np.concatenate(places)


def _runs(sentences: Sequence[Ids]) -> list[_Run]:
    runs, start = [], 0
    for length, same in groupby(len(one) for one in sentences):
        count = sum(1 for _ in same)
        runs.append(_Run(start, count, length))
        start += count * length
    return runs


def _weights(layer: Layer) -> _Weights:
    qkv, out, up, down = (torch.from_numpy(one.T.copy()) for one in (layer.qkv, layer.out, layer.up, layer.down))
    bias = torch.from_numpy(layer.qkv_bias)
    biases = layer.out_bias, layer.up_bias, layer.down_bias
    return _Weights(qkv, bias, out, biases[0], layer.norm, up, biases[1], down, biases[2], layer.last_norm)
