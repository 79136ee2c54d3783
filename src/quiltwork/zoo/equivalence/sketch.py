"""Short random projections of weights: blocks that are far apart are told apart without comparing them in full.

A projection on a vector of independent normal numbers is 2-stable: its spread is the Euclidean length of what is
projected, so distances between sketches estimate distances between blocks (Datar et al. 2004, as git-theta uses it).
Long tensors are first folded to a fixed length with random signs, which keeps lengths in expectation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from quiltwork.zoo.dtypes import to_float32
from quiltwork.zoo.folding import fold
from quiltwork.zoo.segments import link_id
from quiltwork.zoo.types import Part, RawTensor, TensorRef

SIZE = 64
"""Numbers in a sketch: an estimated cosine of .9 is off by about .02."""
_FOLDED = 4096

Values = npt.NDArray[np.float32]


def values(raw: RawTensor) -> Values:
    """A float tensor as a flat float32 vector."""
    if raw.dtype == "F64":
        return raw.data.view(np.float64).astype(np.float32)
    return to_float32(raw.data, raw.dtype).reshape(-1)


def project(vector: Values, seed: int, role: str) -> npt.NDArray[np.float64]:
    """(SIZE,): the sketch of a flat tensor; the same ``seed`` and ``role`` give the same projection."""
    key = int.from_bytes(blake3(f"{seed}|{role}".encode()).digest(length=8), "big")
    rng = np.random.default_rng(key)
    folded = np.zeros(_FOLDED)
    for at in range(0, vector.size, _FOLDED):
        piece = vector[at : at + _FOLDED].astype(np.float64)
        signs = rng.integers(0, 2, piece.size, dtype=np.int8) * 2 - 1
        folded[: piece.size] += piece * signs
    projection = np.random.default_rng(key ^ 1).standard_normal((SIZE, _FOLDED))
    sketch: npt.NDArray[np.float64] = projection @ folded
    return sketch


def sketch_cosine(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """The cosine of what two sketches are of, estimated; 0 where one is of zeros or of what is not finite."""
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm > 0 and np.isfinite(norm) else 0.0


@dataclass
class Sketches:
    """Sketches of parts, each made once. ``seed`` : of the projections; sketches of different seeds do not compare."""

    read: Callable[[TensorRef], RawTensor]
    seed: int
    progress: Callable[[int], None] = lambda nbytes: None
    """Told how many bytes have been read since it was last told."""
    _made: dict[str, dict[str, npt.NDArray[np.float64]]] = field(default_factory=dict)

    def of(self, part: Part) -> dict[str, npt.NDArray[np.float64]]:
        """The sketch of every tensor of the part by role, attachments folded in."""
        key = link_id(part)
        if key not in self._made:
            made = {}
            for tensor in part.block.tensors:
                made[tensor.name] = project(values(fold(part, tensor, self.read)), self.seed, tensor.name)
                self.progress(tensor.nbytes)
            self._made[key] = made
        return self._made[key]
