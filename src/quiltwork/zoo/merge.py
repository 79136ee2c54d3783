"""A model's parts as one Hugging Face directory; an adapter's attachments folded into its base's weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quiltwork.core.errors import UnsupportedError
from quiltwork.zoo.derived import STITCHED, refuse_export
from quiltwork.zoo.families import FAMILIES, TENSORS
from quiltwork.zoo.folding import FOLDED_KINDS, fold, touched
from quiltwork.zoo.plan import make_plan
from quiltwork.zoo.types import Model, Part, TensorRef

if TYPE_CHECKING:
    from quiltwork.zoo.zoo import Zoo

SHARD = 4 << 30
"""Bytes of tensors per file."""

_ENDS = (("embed", "tokens.weight"), ("head", "lm_head.weight"))
_OTHER_FORMS = (".safetensors", ".bin", ".index.json", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack")


@dataclass(frozen=True)
class _Written:
    """A tensor to write: its name in the checkpoint, and where it comes from."""

    name: str
    tensor: TensorRef
    part: Part


def write_merged(zoo: Zoo, model: Model, dest: Path, *, merged: bool, report: Callable[[int], None]) -> tuple[int, int]:
    """Write the model's parts into the folder ``dest``; returns the number of files and of their bytes.

    Attachments are folded in (``merged``) in float32 and rounded to the base's dtype.
    Raises UnsupportedError for an unknown family, an adapter that was not to be folded in, and one that cannot be.
    """
    _refuse(model, merged)
    parts = [part for part in model.parts if part.block.kind != TENSORS]
    tied = _tied(model, parts)
    plan = make_plan(FAMILIES[model.family], model.config, where=f"config.json of {model.ref}")
    names = {(part.name, role): wanted.name for part in plan.walk() for role, wanted in part.tensors.items()}
    chosen = [
        _Written(names[part.name, tensor.name], tensor, part)
        for outer in parts
        for part in outer.walk()
        for tensor in part.block.tensors
        if not (tied and (part.name, tensor.name) == _ENDS[1])
    ]
    _write_weights(zoo, sorted(chosen, key=lambda item: item.name), dest, report)
    for name in model.files:
        if "/" not in name and not name.endswith(_OTHER_FORMS) and name not in ("config.json", "adapter_config.json"):
            (dest / name).write_bytes(zoo.read_file(model, name))
    config = dict(model.config) | {"tie_word_embeddings": tied}
    (dest / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    sizes = [file.stat().st_size for file in dest.iterdir()]
    return len(sizes), sum(sizes)


def _refuse(model: Model, merged: bool) -> None:
    where = str(model.ref)
    if model.family == STITCHED:
        raise refuse_export(model)
    if model.family not in FAMILIES:
        raise UnsupportedError("is of no known family: only its own files can be written", where=where)
    reasons = [reason for reason in model.unservable if reason.startswith("adapter_config.json")]
    if reasons:
        raise UnsupportedError("; ".join(reasons), where=where)
    for part in model.parts:
        own = {tensor.name for tensor in part.block.tensors}
        for block in part.attachments:
            if not merged:
                raise UnsupportedError("is an adapter", where=where, hint="--merged writes it with its base")
            if block.kind not in FOLDED_KINDS:
                raise UnsupportedError(f"a {block.kind} cannot be merged into weights", where=where)
        lacking = sorted(role for role in touched(part) - own if not role.endswith(".bias") or _adds(part, role))
        if lacking:
            raise UnsupportedError(f"its base has no {lacking[0]} to merge into", where=f"{where}: {part.name}")


def _adds(part: Part, role: str) -> bool:
    """Whether an attachment brings a value for a bias, rather than scaling one that may not be there."""
    shift = role.replace(".bias", ".lora_B_bias")
    return any(tensor.name in (role, shift) for block in part.attachments for tensor in block.tensors)


def _tied(model: Model, parts: Sequence[Part]) -> bool:
    """Whether head and embedding are still the same matrix after folding, and are meant to be."""
    contents = {}
    for part in parts:
        for tensor in part.block.tensors:
            if (part.name, tensor.name) in _ENDS and tensor.name not in touched(part):
                contents[tensor.name] = tensor.content
    default = FAMILIES[model.family].defaults["tie_word_embeddings"]
    return (
        bool(model.config.get("tie_word_embeddings", default)) and len(contents) == 2 and len({*contents.values()}) == 1
    )


def _write_weights(zoo: Zoo, tensors: Sequence[_Written], dest: Path, report: Callable[[int], None]) -> None:
    shards: list[list[_Written]] = [[]]
    for item in tensors:
        if shards[-1] and sum(t.tensor.nbytes for t in shards[-1]) + item.tensor.nbytes > SHARD:
            shards.append([])
        shards[-1].append(item)
    if len(shards) == 1:
        _write_shard(zoo, shards[0], dest / "model.safetensors", report)
        return
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(zoo, shard, dest / name, report)
        weight_map.update({item.name: name for item in shard})
    index = {"metadata": {"total_size": sum(t.tensor.nbytes for t in tensors)}, "weight_map": weight_map}
    (dest / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _write_shard(zoo: Zoo, tensors: Sequence[_Written], path: Path, report: Callable[[int], None]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for item in tensors:
        end = at + item.tensor.nbytes
        header[item.name] = {
            "dtype": item.tensor.dtype,
            "shape": list(item.tensor.shape),
            "data_offsets": [at, end],
        }
        at = end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with path.open("xb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for item in tensors:
            file.write(fold(item.part, item.tensor, zoo.read).data.data)
            report(item.tensor.nbytes)
