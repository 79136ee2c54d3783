"""Rotary position embedding: the frequencies of each scaling type, and the table of cosines and sines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.layers.compiled import kernel

_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("original_max_position_embeddings",),
}
"""What each type cannot do without, beside ``theta``."""

_OPTIONAL = ("max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")


def _numbers(rope: Mapping[str, Any], kind: str) -> dict[str, float]:
    """Every number ``rope`` gives, checked: required ones are there, all are positive, nothing else is asked for."""
    required = ("theta", *_REQUIRED[kind])
    known = {*required, *_OPTIONAL, *(name for names in _REQUIRED.values() for name in names)}
    found = {}
    for name, value in rope.items():
        if name in ("type", "truncate"):
            continue
        if name not in known:
            raise UnsupportedError("is not implemented", where=f"rope.{name}")
        if value is None:
            continue
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not 0 <= value < math.inf or (name in required and value == 0):
            raise BadInputError(f"must be a positive number, is {value!r}", where=f"rope.{name}")
        found[name] = float(value)
    for name in required:
        if name not in found:
            raise BadInputError("is missing", where=f"rope.{name}")
    return found


def _mscale(scale: float, mscale: float = 1.0) -> float:
    return 1.0 if scale <= 1 else 0.1 * mscale * math.log(scale) + 1.0


def _default(theta: float, dim: int) -> Tensor:
    return 1.0 / (theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))


def _llama3(rope: Mapping[str, float], dim: int) -> Tensor:
    frequencies = _default(rope["theta"], dim)
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    context = rope["original_max_position_embeddings"]
    if high <= low:
        raise BadInputError(f"must be above low_freq_factor {low}, is {high}", where="rope.high_freq_factor")
    wavelength = 2 * math.pi / frequencies
    scaled = torch.where(wavelength > context / low, frequencies / factor, frequencies)
    smooth = (context / wavelength - low) / (high - low)
    medium = (wavelength >= context / high) & (wavelength <= context / low)
    return torch.where(medium, (1 - smooth) * scaled / factor + smooth * scaled, scaled)


def _yarn(rope: Mapping[str, float], dim: int, truncate: bool) -> tuple[Tensor, float]:
    theta, context = rope["theta"], rope["original_max_position_embeddings"]
    if theta <= 1:
        raise BadInputError(f"must be above 1, is {theta}", where="rope.theta")
    factor = rope.get("factor")
    if factor is None:
        if "max_position_embeddings" not in rope:
            raise BadInputError("is missing", where="rope.factor")
        factor = rope["max_position_embeddings"] / context
    attention_factor = rope.get("attention_factor")
    if attention_factor is None:
        mscale, all_dim = rope.get("mscale"), rope.get("mscale_all_dim")
        attention_factor = _mscale(factor)
        if mscale and all_dim:
            attention_factor = _mscale(factor, mscale) / _mscale(factor, all_dim)

    def correction(rotations: float) -> float:
        return dim * math.log(context / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = correction(rope.get("beta_fast") or 32), correction(rope.get("beta_slow") or 1)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    extrapolated = _default(theta, dim)
    keep = 1 - ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    return extrapolated / factor * (1 - keep) + extrapolated * keep, attention_factor


def frequencies(rope: Mapping[str, Any], head_dim: int) -> tuple[Tensor, float]:
    """((head_dim / 2,) float32 radians per position, factor on cosines and sines), as transformers computes them.

    Raises UnsupportedError for another ``type`` or key or an odd ``head_dim``, BadInputError for a parameter that is
    missing or not a positive number.
    """
    kind = rope.get("type", "default") if isinstance(rope, Mapping) else rope
    if not isinstance(rope, Mapping) or kind not in _REQUIRED:
        raise UnsupportedError(f"rope type {kind!r} is not implemented", where="rope.type")
    if head_dim % 2:
        raise UnsupportedError(f"rope over an odd head_dim {head_dim} is not implemented", where="head_dim")
    numbers = _numbers(rope, kind)
    if kind == "llama3":
        return _llama3(numbers, head_dim), 1.0
    if kind == "yarn":
        return _yarn(numbers, head_dim, rope.get("truncate", True) is not False)
    plain = _default(numbers["theta"], head_dim)
    return (plain / numbers["factor"] if kind == "linear" else plain), 1.0


class RopeTable:
    """Cosines and sines by position, grown as positions are asked for; one for all blocks with the same ``rope``."""

    def __init__(self, rope: Mapping[str, Any], head_dim: int, device: torch.device) -> None:
        inverse, self._factor = frequencies(rope, head_dim)
        self._inverse = inverse.to(device)
        self._table = self._build(256)

    def _build(self, positions: int) -> tuple[Tensor, Tensor]:
        angles = torch.outer(torch.arange(positions, dtype=torch.float32, device=self._inverse.device), self._inverse)
        return (angles.cos() * self._factor).contiguous(), (angles.sin() * self._factor).contiguous()

    def upto(self, positions: int) -> tuple[Tensor, Tensor]:
        """(cos, sin), each (at least ``positions``, head_dim / 2) float32."""
        if positions > self._table[0].shape[0]:
            self._table = self._build(max(positions, 2 * self._table[0].shape[0]))
        return self._table


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate (rows, heads, head_dim) by the rows' (rows, head_dim / 2) cosines and sines; half-split pairs."""
    half = x.shape[-1] // 2
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


@kernel(inline="always")
def rotate_head(head, cos, sin, out):  # type: ignore[no-untyped-def]
    """``rotate`` for one (head_dim,) head, into other memory."""
    half = head.shape[0] // 2
    for j in range(half):
        first, second = head[j], head[j + half]
        out[j] = first * cos[j] - second * sin[j]
        out[j + half] = second * cos[j] + first * sin[j]


@kernel(inline="always")
def rotate_head_in_place(head, cos, sin):  # type: ignore[no-untyped-def]
    """``rotate`` for one (head_dim,) head: apart from ``rotate_head``, so that both are seen to vectorise."""
    half = head.shape[0] // 2
    low, high = head[:half], head[half:]
    for j in range(half):
        first, second = low[j], high[j]
        low[j] = first * cos[j] - second * sin[j]
        high[j] = second * cos[j] + first * sin[j]
