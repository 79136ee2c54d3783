"""Attachments folded into the weights they hang on, in float32: what PEFT calls merging."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import UnsupportedError
from quiltwork.zoo.dtypes import from_float32, to_float32
from quiltwork.zoo.types import Block, Part, RawTensor, TensorRef

Values = npt.NDArray[np.float32]
Read = Callable[[TensorRef], RawTensor]

FOLDED_KINDS = ("lora", "ia3", "norm", "bias")
"""Attachment kinds that weights can take up; virtual tokens they cannot."""


def touched(part: Part) -> frozenset[str]:
    """Roles (``q_proj.weight``) that the part's attachments change."""
    found = set()
    for block in part.attachments:
        for role, target in block.arch.get("targets", {}).items():
            if block.kind in ("norm", "bias"):
                found.add(role)
                continue
            found.add(f"{role}.weight")
            if block.kind == "ia3" and target["side"] == "output":
                found.add(f"{role}.bias")
        found.update(t.name.replace(".lora_B_bias", ".bias") for t in block.tensors if t.name.endswith("_B_bias"))
    return frozenset(found)


def fold(part: Part, tensor: TensorRef, read: Read) -> RawTensor:
    """A tensor of the part's block with all attachments of the part folded in, rounded to the block's dtype.

    Raises UnsupportedError for an attachment that weights cannot take up.
    """
    if tensor.name not in touched(part):
        return read(tensor)
    role, _, what = tensor.name.rpartition(".")
    flipped = part.block.arch.get("layout") == "conv1d" and role.endswith("_proj") and what == "weight"
    values = _values(read(tensor))
    values = values.T if flipped else values
    for block in part.attachments:
        values = _apply(block, role, what, values, read)
    values = values.T if flipped else values
    return RawTensor(tensor.dtype, tensor.shape, from_float32(np.ascontiguousarray(values), tensor.dtype))


def _apply(block: Block, role: str, what: str, values: Values, read: Read) -> Values:
    tensors = {tensor.name: tensor for tensor in block.tensors}
    if block.kind in ("norm", "bias"):
        name = f"{role}.{what}"
        return _values(read(tensors[name])) if name in tensors else values
    target = block.arch.get("targets", {}).get(role)
    if target is None:
        return values
    if block.kind == "lora":
        return _lora(target, role, what, values, {name: _values(read(ref)) for name, ref in tensors.items()})
    if block.kind == "ia3":
        factor = _values(read(tensors[f"{role}.ia3"]))
        if target["side"] == "input":
            return values * factor if what == "weight" else values
        return values * (factor[:, None] if what == "weight" else factor)
    raise UnsupportedError(f"a {block.kind} cannot be merged into weights", where=role)


def _lora(target: Mapping[str, float], role: str, what: str, values: Values, tensors: Mapping[str, Values]) -> Values:
    scale = np.float32(target["scale"])
    if what == "bias":
        shift = tensors.get(f"{role}.lora_B_bias")
        return values if shift is None else values + scale * shift
    change = scale * (tensors[f"{role}.lora_B"] @ tensors[f"{role}.lora_A"])
    # An embedding's factors are those of its transpose: (d, r) @ (r, vocab).
    summed = values + (change.T if role == "tokens" else change)
    if not target["dora"]:
        return summed
    magnitude = tensors[f"{role}.magnitude"]
    axis = 0 if role == "tokens" else 1
    ratio: Values = magnitude / np.linalg.norm(summed, axis=axis)
    return summed * np.expand_dims(ratio, axis)


def _values(raw: RawTensor) -> Values:
    if raw.dtype == "F64":
        return raw.data.view(np.float64).astype(np.float32).reshape(raw.shape)
    return to_float32(raw.data, raw.dtype).reshape(raw.shape)
