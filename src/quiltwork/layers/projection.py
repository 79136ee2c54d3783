"""A fused linear layer whose rows may each carry their own sequence's attachments."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from quiltwork.core.errors import BadInputError
from quiltwork.layers.dora import Magnitude
from quiltwork.layers.linear import Matrix, fuse
from quiltwork.layers.lora import LowRank, LowRankBatch, LowRanks, Use, add_low_rank, batch
from quiltwork.layers.protocol import Runs, Weights


@dataclass(frozen=True)
class Slice:
    """The columns of a fused projection's output that one role owns."""

    offset: int
    size: int

    @property
    def columns(self) -> slice:
        """For indexing the last axis."""
        return slice(self.offset, self.offset + self.size)


@dataclass(frozen=True)
class Replacement:
    """A sequence's own matrix for one role, where an input-side scale cannot be shared by the fused roles."""

    columns: slice
    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class Scaled:
    """What a ProjectionDelta amounts to at one request's scale: ``factor * y + shift + low-rank updates``."""

    low_ranks: LowRanks
    factor: Tensor | None
    shift: Tensor | None


@dataclass(frozen=True)
class ProjectionDelta:
    """What one model attached to one projection, in the order it is applied to a row.

    ``y = W (input_factor * x) + bias``; ``replacements`` overwrite their columns; ``y = factor * y + shift``; then the
    low-rank updates, and the magnitudes (DoRA) that depend on the request's scale.
    """

    updates: tuple[LowRank, ...] = ()
    magnitudes: tuple[Magnitude, ...] = ()
    factor: Tensor | None = None
    shift: Tensor | None = None
    scaled_shift: Tensor | None = None
    """(out,) added times the request's scale: the bias of a LoRA's B."""
    input_factor: Tensor | None = None
    replacements: tuple[Replacement, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        vectors = (self.factor, self.shift, self.scaled_shift, self.input_factor)
        return (
            sum(u.nbytes for u in self.updates)
            + sum(m.nbytes for m in self.magnitudes)
            + sum(v.nbytes for v in vectors if v is not None)
            + sum(r.weight.nbytes for r in self.replacements)
        )

    def at(self, scale: float) -> Scaled:
        """For a request that asks for ``scale`` times the low-rank change; kept for the usual 1."""
        return self._whole if scale == 1.0 else self._scaled(scale)

    @cached_property
    def _whole(self) -> Scaled:
        return self._scaled(1.0)

    def _scaled(self, scale: float) -> Scaled:
        updates = [replace(u, scale=u.scale * scale) for u in self.updates if scale != 0.0]
        factor, shift = self.factor, self.shift
        if self.scaled_shift is not None:
            added = self.scaled_shift * scale
            shift = added if shift is None else shift + added
        for magnitude in self.magnitudes:
            update, factor, shift = magnitude.fold(scale, factor, shift)
            updates.append(update)
        return Scaled(LowRanks(tuple(updates)), factor, shift)


@dataclass(frozen=True)
class ProjectionBatch:
    """The attachments of all rows of a batch at one projection."""

    low_rank: LowRankBatch | None
    factor: Tensor | None
    """(rows, out), or None where no row is scaled."""
    shift: Tensor | None
    input_factor: Tensor | None
    """(rows, in)."""
    replaced: tuple[tuple[int, int, Replacement], ...]


def _spread(vectors: Sequence[Tensor | None], missing: float, runs: Runs) -> Tensor | None:
    """(rows, width): each sequence's vector on its rows, ``missing`` where it has none; None where nobody has one."""
    first = next((v for v in vectors if v is not None), None)
    if first is None:
        return None
    plain = torch.full_like(first, missing)
    counts = runs.starts.diff().to(first.device).long()
    stacked = torch.stack([plain if v is None else v for v in vectors])
    return stacked.repeat_interleave(counts, dim=0, output_size=runs.rows)


def gather_projection(
    deltas: Sequence[ProjectionDelta | None], scales: Sequence[float], runs: Runs
) -> ProjectionBatch | None:
    """Arrange one projection's attachments for a batch; None where no sequence has any."""
    present = [(s, delta) for s, delta in enumerate(deltas) if delta is not None]
    if not present:
        return None
    starts = runs.starts.tolist()
    scaled: list[Scaled | None] = [None] * len(deltas)
    inputs: list[Tensor | None] = [None] * len(deltas)
    uses, replaced, vectors = [], [], False
    for s, delta in present:
        scaled[s] = own = delta.at(scales[s])
        inputs[s] = delta.input_factor
        if own.low_ranks.updates:
            uses.append(Use(starts[s], starts[s + 1], own.low_ranks))
        vectors = vectors or own.factor is not None or own.shift is not None or delta.input_factor is not None
        replaced += [(starts[s], starts[s + 1], r) for r in delta.replacements]
    low_rank = batch(uses) if uses else None
    if not vectors:
        return ProjectionBatch(low_rank, None, None, None, tuple(replaced))
    return ProjectionBatch(
        low_rank,
        factor=_spread([own.factor if own else None for own in scaled], 1.0, runs),
        shift=_spread([own.shift if own else None for own in scaled], 0.0, runs),
        input_factor=_spread(inputs, 1.0, runs),
        replaced=tuple(replaced),
    )


@dataclass(frozen=True)
class Projection:
    """One or more roles computed by one product: (rows, in) -> (rows, sum of the roles' outputs)."""

    name: str
    matrix: Matrix
    bias: Tensor | None
    roles: Mapping[str, Slice]

    @property
    def nbytes(self) -> int:
        """Bytes of weights and biases."""
        return self.matrix.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def role_weight(self, role: str) -> Tensor:
        """(out, in) of one role, dense."""
        return self.matrix.dense()[self.roles[role].columns]

    def role_bias(self, role: str) -> Tensor | None:
        """(out,) of one role."""
        return None if self.bias is None else self.bias[self.roles[role].columns]

    def __call__(self, x: Tensor, batch: ProjectionBatch | None = None) -> Tensor:
        """Contiguous (rows, in) -> contiguous (rows, out)."""
        if batch is None:
            return self.matrix(x, self.bias)
        if batch.input_factor is not None:
            x = x * batch.input_factor
        y = self.matrix(x, self.bias)
        for begin, end, own in batch.replaced:
            y[begin:end, own.columns] = F.linear(x[begin:end], own.weight, own.bias)
        if batch.factor is not None:
            y *= batch.factor
        if batch.shift is not None:
            y += batch.shift
        if batch.low_rank is not None:
            add_low_rank(x, y, batch.low_rank)
        return y


def _check(role: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    if tensor is None:
        raise BadInputError("is missing", where=role)
    if tuple(tensor.shape) != shape:
        raise BadInputError(f"has shape {tuple(tensor.shape)}, expected {shape}", where=role)


Outputs = Mapping[str, int]
"""Role -> output features, in the order they stand in a fused projection."""


def _fuse_first(
    layout: str, choices: Sequence[Outputs], in_features: int, *tensors: Tensor | None
) -> tuple[int, Matrix]:
    """(which choice, its matrix) for the first of ``choices`` whose first role is there."""
    rest = list(tensors)
    for index, outputs in enumerate(choices):
        own, rest = rest[: len(outputs)], rest[len(outputs) :]
        if own[0] is None and rest:
            continue
        for (role, size), tensor in zip(outputs.items(), own, strict=True):
            shape = (size, in_features)
            _check(f"{role}.weight", tensor, shape if layout == "linear" else shape[::-1])
        return index, fuse(layout, *(tensor for tensor in own if tensor is not None))
    raise AssertionError("the last choice is always taken")


def load_projection(
    name: str, weights: Weights, layout: str, choices: Sequence[Outputs], in_features: int
) -> Projection:
    """Build a projection from the ``{role}.weight`` and ``{role}.bias`` of the first of ``choices`` that is there.

    The matrices are only asked for through ``Weights.prepared``, so that nobody holds them as they were.
    Raises BadInputError naming a role that is missing or has another shape.
    """
    names = [f"{role}.weight" for outputs in choices for role in outputs]
    chosen, matrix = weights.prepared(
        ("matrix", layout, str(in_features), json.dumps(choices)),
        names,
        partial(_fuse_first, layout, choices, in_features),
    )
    outputs = choices[chosen]
    slices, offset = {}, 0
    for role, size in outputs.items():
        slices[role] = Slice(offset, size)
        offset += size
    biases = {role: weights.get(f"{role}.bias") for role in outputs}
    for role, vector in biases.items():
        if vector is not None:
            _check(f"{role}.bias", vector, (outputs[role],))
    some = next((b for b in biases.values() if b is not None), None)
    bias = None
    if some is not None:
        parts = [some.new_zeros(outputs[role]) if b is None else b for role, b in biases.items()]
        bias = torch.cat(parts) if len(parts) > 1 else parts[0]
    return Projection(name, matrix, bias, slices)
