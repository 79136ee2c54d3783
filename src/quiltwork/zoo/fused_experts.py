"""Experts that a checkpoint keeps in one tensor, seen one by one: each is a run of its bytes.

transformers has them so in memory (``experts.gate_up_proj`` (E, 2H, D), ``experts.down_proj`` (E, D, H)), and writes
them so where it is asked for no other format. The names given are those of the family's other format, so that the same
expert is the same block whichever way it came.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from quiltwork.core.servable import Json
from quiltwork.zoo.formats.weights import Slice, WeightsFile
from quiltwork.zoo.plan import family_of
from quiltwork.zoo.source import Source
from quiltwork.zoo.sparse import MOST_EXPERTS, Sparse
from quiltwork.zoo.types import DTYPE_BITS

_FUSED = re.compile(r"((?:.*\.)?)layers\.(\d+)\.mlp\.(experts\.gate_up_proj|experts\.down_proj|gate\.weight)")


def unfused(source: Source, config: Mapping[str, Json]) -> Source:
    """The source with every fused tensor of experts in pieces, and its routers under the family's own names.

    One of a family without experts is given back as it is.
    """
    family = family_of(config)[0]
    sparse = family.sparse if family is not None else None
    if sparse is None:
        return source
    split: dict[str, dict[str, list[Slice]]] = {}
    tensors: dict[str, tuple[str, Slice]] = {}
    for name, (path, item) in source.tensors.items():
        pieces = list(_pieces(name, item, sparse))
        if pieces:
            split.setdefault(path, {})[item.name] = pieces
            tensors |= {piece.name: (path, piece) for piece in pieces}
        else:
            tensors[_renamed(name, sparse)] = (path, item)
    weights = {path: _file(file, split.get(path, {})) for path, file in source.weights.items()}
    return replace(source, weights=weights, tensors=tensors)


def _file(file: WeightsFile, split: dict[str, list[Slice]]) -> WeightsFile:
    if not split:
        return file
    whole = {name: item for name, item in file.tensors.items() if item.name not in split}
    return replace(file, tensors=whole | {piece.name: piece for pieces in split.values() for piece in pieces})


def _block(found: re.Match[str], sparse: Sparse) -> str:
    """Where the layer's experts stand, after what the checkpoint writes in front of ``layers``."""
    return found[1] + sparse.block.removeprefix("model.").replace("{i}", found[2])


def _renamed(name: str, sparse: Sparse) -> str:
    found = _FUSED.fullmatch(name)
    return f"{_block(found, sparse)}.gate.weight" if found is not None and found[3] == "gate.weight" else name


def _pieces(name: str, item: Slice, sparse: Sparse) -> Iterator[Slice]:
    """The matrices of a fused tensor, expert by expert; none where it is not one."""
    found = _FUSED.fullmatch(name)
    if found is None or found[3] == "gate.weight" or len(item.shape) != 3 or not item.nbytes:
        return
    experts, rows, columns = item.shape
    roles = ("down_proj",) if found[3].endswith("down_proj") else ("gate_proj", "up_proj")
    if experts > MOST_EXPERTS or rows % len(roles):
        return
    rows //= len(roles)
    nbytes = item.nbytes // (experts * len(roles))
    for expert in range(experts):
        for place, role in enumerate(roles):
            at = expert * len(roles) + place
            yield Slice(
                name=f"{_block(found, sparse)}.experts.{expert}.{sparse.roles[role]}.weight",
                dtype=item.dtype,
                shape=(rows, columns),
                offset=item.offset + _step(item, expert, place * rows, at * nbytes),
                nbytes=nbytes,
                strides=None if item.strides is None else item.strides[1:],
            )


def _step(item: Slice, expert: int, row: int, plain: int) -> int:
    """Bytes from a tensor's first element to one of its matrices."""
    if item.strides is None:
        return plain
    return (expert * item.strides[0] + row * item.strides[1]) * DTYPE_BITS[item.dtype] // 8
