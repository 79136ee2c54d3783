"""A state on its way from one worker to others: a header in JSON, then the arrays' bytes in few large pieces."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from quiltwork.cluster.elastic.group import Group
from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json
from quiltwork.core.trainable import State

_PIECE = 1 << 20
"""Arrays smaller than this many bytes are sent together."""


def send_state(group: Group, state: State, beside: Mapping[str, Json]) -> None:
    """To all other ranks, from this one, which has rank 0. ``beside`` is what goes with it. Raises GroupBroken."""
    arrays = [np.ascontiguousarray(array) for array in state.arrays.values()]
    for name, array in state.arrays.items():
        if array.dtype.names is not None or array.dtype.kind not in "biufc":
            raise BadInputError(f"cannot be sent: {array.dtype}", where=f"state: {name}")
    header = {
        "arrays": [[name, array.dtype.str, list(array.shape)] for name, array in state.arrays.items()],
        "meta": dict(state.meta),
        "beside": dict(beside),
    }
    told = np.frombuffer(json.dumps(header).encode(), np.uint8)
    group.broadcast(torch.tensor([len(told)]), 0)
    group.broadcast(torch.from_numpy(told.copy()), 0)
    for first, last in _pieces([array.nbytes for array in arrays]):
        parts = [array.reshape(-1).view(np.uint8) for array in arrays[first:last]]
        piece = parts[0] if len(parts) == 1 and parts[0].flags.writeable else np.concatenate(parts)
        if len(piece):
            group.broadcast(torch.from_numpy(piece), 0)


def receive_state(group: Group) -> tuple[State, Mapping[str, Json]]:
    """What rank 0 sends: the state and what goes with it. Raises GroupBroken."""
    length = torch.zeros(1, dtype=torch.int64)
    group.broadcast(length, 0)
    told = torch.empty(int(length), dtype=torch.uint8)
    group.broadcast(told, 0)
    header = json.loads(told.numpy().tobytes())
    described = [(name, np.dtype(dtype), tuple(shape)) for name, dtype, shape in header["arrays"]]
    sizes = [int(np.prod(shape, dtype=np.int64)) * dtype.itemsize for _, dtype, shape in described]
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for first, last in _pieces(sizes):
        # A buffer for each piece, so that none outlives all of its arrays but one.
        piece = np.empty(sum(sizes[first:last]), np.uint8)
        if len(piece):
            group.broadcast(torch.from_numpy(piece), 0)
        start = 0
        for (name, dtype, shape), nbytes in zip(described[first:last], sizes[first:last], strict=True):
            part = piece[start : start + nbytes]
            # Small ones are copied out: their bytes may begin anywhere.
            arrays[name] = (part if last - first == 1 else part.copy()).view(dtype).reshape(shape)
            start += nbytes
    return State(arrays, header["meta"]), header["beside"]


def _pieces(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Which arrays, from and up to, go together: large ones alone. Arrays without bytes may be among them."""
    first, nbytes = 0, 0
    for at, size in enumerate(sizes):
        if at > first and nbytes + size > _PIECE:
            yield first, at
            first, nbytes = at, 0
        nbytes += size
    if first < len(sizes):
        yield first, len(sizes)
