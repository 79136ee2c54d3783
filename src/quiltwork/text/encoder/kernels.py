"""What lies between an encoder's matrix products, compiled: norms with the sums before them, the activation.

All work on rows of sentences laid end to end without padding. They release the interpreter's lock and use one core
each: what calls them decides how many run at once.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from quiltwork.layers.compiled import kernel

_ERF_END = np.float32(3.8325069)
_HALF, _ONE, _ROOT_HALF = np.float32(0.5), np.float32(1.0), np.float32(0.70710678)


@njit(fastmath=True, inline="always")
def _erf(x):  # type: ignore[no-untyped-def]
    """The error function within 5e-7, as a ratio of polynomials (the one that Eigen and XLA use)."""
    x = min(max(x, -_ERF_END), _ERF_END)
    s = x * x
    p = np.float32(0.00022905065861350646)
    p = p * s + np.float32(0.0034082910107109506)
    p = p * s + np.float32(0.050955695062380861)
    p = p * s + np.float32(0.18520832239976145)
    p = p * s + np.float32(1.128379143519084)
    q = np.float32(-1.1791602954361697e-7)
    q = q * s + np.float32(0.000023547966471313185)
    q = q * s + np.float32(0.0010179625278914885)
    q = q * s + np.float32(0.014070470171167667)
    q = q * s + np.float32(0.11098505178285362)
    q = q * s + np.float32(0.49746925110067538)
    q = q * s + _ONE
    return x * p / q


@kernel()
def bias_gelu(x, bias):  # type: ignore[no-untyped-def]
    """gelu(x + bias) in place; x : (n, d), bias : (d,)."""
    for i in range(x.shape[0]):
        row = x[i]
        for j in range(x.shape[1]):
            v = row[j] + bias[j]
            row[j] = _HALF * v * (_ONE + _erf(v * _ROOT_HALF))


@kernel()
def _norm(row, total, weight, shift, eps, out):  # type: ignore[no-untyped-def]
    """LayerNorm of ``row`` (d,), whose sum is ``total``, to ``out`` (d,)."""
    d = row.shape[0]
    mean = total / np.float32(d)
    square = np.float32(0)
    for j in range(d):
        c = row[j] - mean
        square += c * c
    scale = _ONE / np.sqrt(square / np.float32(d) + eps)
    for j in range(d):
        out[j] = (row[j] - mean) * scale * weight[j] + shift[j]


@kernel()
def add_norm(x, bias, rest, weight, shift, eps, out):  # type: ignore[no-untyped-def]
    """LayerNorm(x + bias + rest) to ``out``, which may be ``rest``; x, rest, out : (n, d), the others (d,)."""
    d = x.shape[1]
    row = np.empty(d, np.float32)
    for i in range(x.shape[0]):
        total = np.float32(0)
        for j in range(d):
            v = x[i, j] + bias[j] + rest[i, j]
            row[j] = v
            total += v
        _norm(row, total, weight, shift, eps, out[i])


@kernel()
def embed_norm(words, positions, ids, places, weight, shift, eps, out):  # type: ignore[no-untyped-def]
    """LayerNorm of words' and positions' rows (n, d) to ``out``; ids, places : (n,)."""
    d = words.shape[1]
    row = np.empty(d, np.float32)
    for i in range(ids.shape[0]):
        total = np.float32(0)
        for j in range(d):
            v = words[ids[i], j] + positions[places[i], j]
            row[j] = v
            total += v
        _norm(row, total, weight, shift, eps, out[i])
