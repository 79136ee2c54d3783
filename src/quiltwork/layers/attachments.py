"""What a fine-tune hung on one part, made ready: LoRA, DoRA, IA3, norms, biases, prefixes and prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.layers.dora import Magnitude, magnitude_of
from quiltwork.layers.lora import LowRank
from quiltwork.layers.projection import (
    Projection,
    ProjectionBatch,
    ProjectionDelta,
    Replacement,
    Slice,
    gather_projection,
)
from quiltwork.layers.protocol import LoadedAttachment, Placement, Runs


@dataclass(frozen=True)
class PartShape:
    """What attachments can hang on: the projections, norms and places for virtual tokens of one block."""

    projections: Sequence[Projection]
    norms: Mapping[str, Tensor]
    """Role (``norm.weight``, ``q_norm.weight``) -> the base's values."""
    placement: Placement
    prefix: tuple[int, int] | None = None
    """(num_kv_heads, head_dim) where keys and values may be prefixed."""
    prompt: int | None = None
    """Width of prompt embeddings, where they may stand."""
    tokens: Tensor | None = None
    """(vocab, d) embedding, where it may carry a low-rank update."""


@dataclass(frozen=True)
class EmbeddingUpdate:
    """A low-rank change of an embedding: row t gains ``scale * down[:, t] @ up``."""

    down: Tensor
    """(r, vocab)."""
    update: LowRank | Magnitude
    vocab: int

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return self.update.nbytes

    def apply(self, ids: Tensor, rows: Tensor, scale: float) -> Tensor:
        """Changed embedding rows (n, d) for ``ids`` (n,) whose base rows are ``rows``."""
        if isinstance(self.update, Magnitude):
            low_rank, factor, _ = self.update.fold(scale, None, None)
            rows = rows if factor is None else rows * factor
        else:
            low_rank = replace(self.update, scale=self.update.scale * scale)
        return rows + low_rank.scale * (low_rank.down[:, ids].t() @ low_rank.up)


@dataclass(frozen=True)
class Attached:
    """One part's attachments, ready for ``gather``."""

    deltas: Mapping[str, ProjectionDelta] = field(default_factory=dict)
    norms: Mapping[str, Tensor] = field(default_factory=dict)
    tokens: EmbeddingUpdate | None = None
    prompt: Tensor | None = None
    """(n, d) embeddings of virtual tokens."""
    prefix: tuple[Tensor, Tensor] | None = None
    """Keys and values (n, num_kv_heads, head_dim) to copy into the sequence's first page slots."""
    virtual_tokens: int = 0
    """Tokens that stand before the request's own: of the prefix or of the prompt."""

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        loose = [*self.norms.values(), *(self.prefix or ())] + ([] if self.prompt is None else [self.prompt])
        total: int = sum(d.nbytes for d in self.deltas.values()) + sum(t.nbytes for t in loose)
        return total + (self.tokens.nbytes if self.tokens else 0)


class _Attaching:
    """Collects attachment blocks one after another into an Attached."""

    def __init__(self, shape: PartShape) -> None:
        self.shape = shape
        self.deltas: dict[str, ProjectionDelta] = {}
        self.result = Attached()

    def tensor(self, tensors: Mapping[str, Tensor], name: str, *shape: int | None) -> Tensor:
        """``tensors[name]`` in the placement, contiguous, checked against ``shape`` (None: any)."""
        if name not in tensors:
            raise BadInputError("is missing", where=name)
        value = tensors[name]
        fits = value.dim() == len(shape) and all(w is None or w == g for w, g in zip(shape, value.shape, strict=True))
        if not fits:
            wanted = tuple("any" if w is None else w for w in shape)
            raise BadInputError(f"has shape {tuple(value.shape)}, the base needs {wanted}", where=name)
        return value.to(self.shape.placement.device, self.shape.placement.dtype).contiguous()

    def projection(self, kind: str, role: str) -> tuple[Projection, Slice]:
        for projection in self.shape.projections:
            if role in projection.roles:
                return projection, projection.roles[role]
        known = ", ".join(r for p in self.shape.projections for r in p.roles) or "none"
        raise UnsupportedError(f"{kind} on {role!r} is not possible here", where=role, hint=f"targets here: {known}")

    def delta(self, projection: Projection) -> ProjectionDelta:
        return self.deltas.get(projection.name, ProjectionDelta())

    def lora(self, arch: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        for role, target in _targets(arch):
            rank = _positive(target, "r", role)
            scale = _finite(target, "scale", role)
            if role == "tokens" and self.shape.tokens is not None:
                self._embedding(rank, scale, bool(target.get("dora")), tensors)
                continue
            projection, place = self.projection("lora", role)
            down = self.tensor(tensors, f"{role}.lora_A", rank, projection.matrix.in_features)
            up = self.tensor(tensors, f"{role}.lora_B", place.size, rank).t().contiguous()
            update, delta = LowRank(down, up, place.offset, scale), self.delta(projection)
            bias = tensors.get(f"{role}.lora_B_bias")
            if target.get("dora"):
                if bias is not None:
                    raise UnsupportedError("a bias on a DoRA is not implemented", where=f"{role}.lora_B_bias")
                magnitude = self.tensor(tensors, f"{role}.magnitude", place.size)
                width = projection.matrix.out_features
                dora = magnitude_of(update, magnitude, projection.role_weight(role), projection.role_bias(role), width)
                delta = replace(delta, magnitudes=(*delta.magnitudes, dora))
            else:
                delta = replace(delta, updates=(*delta.updates, update))
            if bias is not None:
                value = self.tensor(tensors, f"{role}.lora_B_bias", place.size) * scale
                delta = replace(delta, scaled_shift=_add(delta.scaled_shift, self._wide(projection, place, value, 0.0)))
            self.deltas[projection.name] = delta

    def _embedding(self, rank: int, scale: float, dora: bool, tensors: Mapping[str, Tensor]) -> None:
        base = self.shape.tokens
        if base is None or self.result.tokens is not None:
            raise UnsupportedError("two low-rank changes of one embedding", where="tokens")
        vocab, width = base.shape
        down = self.tensor(tensors, "tokens.lora_A", rank, vocab)
        up = self.tensor(tensors, "tokens.lora_B", width, rank).t().contiguous()
        update: LowRank | Magnitude = LowRank(down, up, 0, scale)
        if dora:
            magnitude = self.tensor(tensors, "tokens.magnitude", width)
            update = magnitude_of(LowRank(down, up, 0, scale), magnitude, base.t(), None, width)
        self.result = replace(self.result, tokens=EmbeddingUpdate(down, update, vocab))

    def ia3(self, arch: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        for role, target in _targets(arch):
            projection, place = self.projection("ia3", role)
            delta, side = self.delta(projection), target.get("side")
            if side == "output":
                factor = self.tensor(tensors, f"{role}.ia3", place.size)
                wide = self._wide(projection, place, factor, 1.0)
                shift = None if delta.shift is None else delta.shift * wide
                delta = replace(delta, factor=_multiply(delta.factor, wide), shift=shift)
            elif side == "input":
                factor = self.tensor(tensors, f"{role}.ia3", projection.matrix.in_features)
                if len(projection.roles) == 1:
                    delta = replace(delta, input_factor=_multiply(delta.input_factor, factor))
                else:
                    own = Replacement(place.columns, projection.role_weight(role) * factor, projection.role_bias(role))
                    delta = replace(delta, replacements=(*delta.replacements, own))
            else:
                raise UnsupportedError(f"side {side!r} is not implemented", where=f"{role}.side")
            self.deltas[projection.name] = delta

    def bias(self, arch: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        for name, _ in _targets(arch):
            if name in self.shape.norms:
                self._norm(name, tensors)
                continue
            role = str(name).removesuffix(".bias")
            projection, place = self.projection("bias", role)
            change = self.tensor(tensors, f"{role}.bias", place.size)
            base = projection.role_bias(role)
            wide = self._wide(projection, place, change if base is None else change - base, 0.0)
            delta = self.delta(projection)
            if delta.factor is not None:
                wide = wide * delta.factor
            self.deltas[projection.name] = replace(delta, shift=_add(delta.shift, wide))

    def norm(self, arch: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        for name, _ in _targets(arch):
            roles = [name] if name in self.shape.norms else [f"{name}.weight", f"{name}.bias"]
            present = [r for r in roles if r in tensors and r in self.shape.norms]
            if not present:
                known = ", ".join(self.shape.norms) or "none"
                raise UnsupportedError(f"norm {name!r} is not possible here", where=name, hint=f"norms here: {known}")
            for role in present:
                self._norm(role, tensors)

    def _norm(self, role: str, tensors: Mapping[str, Tensor]) -> None:
        value = self.tensor(tensors, role, *self.shape.norms[role].shape)
        self.result = replace(self.result, norms={**self.result.norms, role: value})

    def prefix(self, arch: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        if self.shape.prefix is None:
            raise UnsupportedError("a prefix is possible on attention alone", where="prefix")
        count = _positive(arch, "num_virtual_tokens", "prefix")
        key, value = (self.tensor(tensors, name, count, *self.shape.prefix) for name in ("key", "value"))
        self._virtual(count)
        self.result = replace(self.result, prefix=(key, value))

    def prompt(self, arch: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        if self.shape.prompt is None:
            raise UnsupportedError("a prompt is possible on the embedding alone", where="prompt")
        count = _positive(arch, "num_virtual_tokens", "prompt")
        embeddings = self.tensor(tensors, "embeddings", count, self.shape.prompt)
        self._virtual(count)
        self.result = replace(self.result, prompt=embeddings)

    def _virtual(self, count: int) -> None:
        if self.result.virtual_tokens:
            raise UnsupportedError("two sets of virtual tokens on one part", where="num_virtual_tokens")
        self.result = replace(self.result, virtual_tokens=count)

    @staticmethod
    def _wide(projection: Projection, place: Slice, value: Tensor, missing: float) -> Tensor:
        wide = value.new_full((projection.matrix.out_features,), missing)
        wide[place.columns] = value
        return wide


def _targets(arch: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    targets = arch.get("targets")
    good = isinstance(targets, Mapping) and all(isinstance(target, Mapping) for target in targets.values())
    if not good or not targets:
        raise BadInputError(f"must map roles to their settings, is {targets!r}"[:200], where="arch.targets")
    return [(str(role), target) for role, target in targets.items()]


def _add(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a + b


def _multiply(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a * b


def _positive(arch: Mapping[str, Any], key: str, where: str) -> int:
    value = arch.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise BadInputError(f"must be a positive integer, is {value!r}", where=f"{where}.{key}")
    return value


def _finite(arch: Mapping[str, Any], key: str, where: str) -> float:
    value = arch.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < float("inf"):
        raise BadInputError(f"must be a finite number, is {value!r}", where=f"{where}.{key}")
    return float(value)


def attach(shape: PartShape, attachments: Sequence[Any]) -> Attached:
    """Make ``(kind, arch, tensors)`` blocks ready for the part they hang on.

    Raises UnsupportedError naming a kind or target that the part cannot take, BadInputError naming a tensor that is
    missing or does not fit.
    """
    collecting = _Attaching(shape)
    takes = {
        "lora": collecting.lora,
        "ia3": collecting.ia3,
        "bias": collecting.bias,
        "norm": collecting.norm,
        "prefix": collecting.prefix,
        "prompt": collecting.prompt,
    }
    for kind, arch, tensors in attachments:
        if kind not in takes:
            known = ", ".join(takes)
            raise UnsupportedError(f"attachment kind {kind!r} is not implemented", where=kind, hint=f"known: {known}")
        takes[kind](arch, tensors)
    return replace(collecting.result, deltas=collecting.deltas)


@dataclass(frozen=True)
class PartBatch:
    """The attachments of all sequences of a batch at one part."""

    projections: Mapping[str, ProjectionBatch]
    norms: Mapping[str, Tensor]
    """Role -> (rows, width), for the norms that some sequence replaced."""
    embeddings: tuple[tuple[int, int, Attached, float], ...]
    """(begin, end, attached, scale) of the runs whose embedding is changed or has virtual tokens."""


def gather(
    shape: PartShape, attached: Sequence[LoadedAttachment | None], scales: Sequence[float], runs: Runs
) -> PartBatch | None:
    """Arrange a batch's attachments at one part (see ``Executor.gather``).

    Raises BadInputError where what is attached was not made by this room, or the lengths do not agree.
    """
    if len(attached) != runs.sequences or len(scales) != runs.sequences:
        raise BadInputError(f"{len(attached)} attachments and {len(scales)} scales for {runs.sequences} sequences")
    own: list[Attached | None] = []
    for one in attached:
        if one is not None and not isinstance(one, Attached):
            raise BadInputError(f"{type(one).__name__} was not made by attach()", where="attachment")
        own.append(one)
    if all(one is None for one in own):
        return None
    projections = {}
    for projection in shape.projections:
        batch = gather_projection([a.deltas.get(projection.name) if a else None for a in own], scales, runs)
        if batch is not None:
            projections[projection.name] = batch
    norms = {}
    counts = runs.starts.diff().long()
    for role, base in shape.norms.items():
        if any(a is not None and role in a.norms for a in own):
            rows = torch.stack([base if a is None else a.norms.get(role, base) for a in own])
            norms[role] = rows.repeat_interleave(counts.to(base.device), dim=0, output_size=runs.rows)
    starts = runs.starts.tolist()
    embeddings = tuple(
        (starts[s], starts[s + 1], a, scales[s])
        for s, a in enumerate(own)
        if a is not None and (a.tokens is not None or a.prompt is not None)
    )
    return PartBatch(projections, norms, embeddings)
