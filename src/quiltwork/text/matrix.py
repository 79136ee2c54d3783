"""How alike every sentence of one list is to every one of another."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quiltwork.text.embedder import Embedded


def cosine_matrix(a: Embedded, b: Embedded) -> npt.NDArray[np.float32]:
    """Cosines (m, n) of m sentences with n others, at most 1; NaN in the row or column of one that is not known.

    Equal sentences are 1 but for rounding (1e-6); ``cosines`` of their pair is exactly 1.
    """
    left, right = _units(a), _units(b)
    found = left @ right.T
    np.clip(found, -1.0, 1.0, out=found)
    found[np.isnan(left).any(axis=1)] = np.nan
    found[:, np.isnan(right).any(axis=1)] = np.nan
    return found


def _units(of: Embedded) -> npt.NDArray[np.float32]:
    norms = np.linalg.norm(of.vectors, axis=1, keepdims=True)
    units = np.full_like(of.vectors, np.nan)
    np.divide(of.vectors, norms, out=units, where=(norms > 0) & of.known[:, None])
    return units
