"""Random numbers within compiled loops: splitmix64, the same everywhere and whatever else draws."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiltwork.layers.compiled import kernel


@kernel()
def next_bits(state: Any) -> Any:
    """The next 64 random bits; ``state`` (1,) uint64 goes on. Any state may be the first.

    Source: Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@kernel()
def below_one(state: Any) -> Any:
    """A random number from 0 to just below 1."""
    return np.float64(next_bits(state) >> np.uint64(11)) * 2.0**-53


@kernel()
def below(state: Any, bound: Any) -> Any:
    """A random whole number from 0 to bound - 1; ``bound`` is at most 2**31."""
    return np.int64((next_bits(state) >> np.uint64(33)) % np.uint64(bound))
