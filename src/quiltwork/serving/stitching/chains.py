"""A zoo's chain as plain torch tensors that gradients can reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quiltwork.core.errors import UnsupportedError
from quiltwork.core.servable import Json
from quiltwork.layers.protocol import Placement
from quiltwork.serving.weights import to_torch
from quiltwork.zoo.derived import STITCHED
from quiltwork.zoo.families import FAMILIES
from quiltwork.zoo.folding import FOLDED_KINDS, fold
from quiltwork.zoo.types import Chain, Part
from quiltwork.zoo.zoo import Zoo

KINDS = ("embed", "attn", "ffn", "stitch", "head")


@dataclass(frozen=True, eq=False)
class LowRankUpdate:
    """A LoRA being trained on one projection: ``y += (x @ down.T) @ up.T``."""

    down: Tensor
    """(r, in)."""
    up: Tensor
    """(out, r)."""


@dataclass(eq=False)
class PlainLink:
    """One block as float32 tensors by role, what is attached to it folded in."""

    kind: str
    arch: Mapping[str, Json]
    tensors: dict[str, Tensor]
    source: Part | None = None
    """The stored part whose weights these are; None for a new block."""
    changed: bool = False
    """Whether the tensors are no longer the source's."""
    low_rank: dict[str, LowRankUpdate] = field(default_factory=dict)
    """Role of a projection (``q_proj``) -> the LoRA on it."""

    @property
    def parameters(self) -> int:
        """Numbers that one token is multiplied with; an embedding is looked up, not multiplied."""
        if self.kind == "embed":
            return 0
        updates = [t for update in self.low_rank.values() for t in (update.down, update.up)]
        return sum(t.numel() for t in [*self.tensors.values(), *updates])

    def trained(self) -> list[Tensor]:
        """The tensors that an optimiser may change."""
        updates = [t for update in self.low_rank.values() for t in (update.down, update.up)]
        return [t for t in [*self.tensors.values(), *updates] if t.requires_grad]


@dataclass(frozen=True, eq=False)
class PlainChain:
    """A chain taken apart by layers: a layer is an attention, its feed-forward and, perhaps, a stitch before them."""

    embed: PlainLink
    layers: tuple[tuple[PlainLink, ...], ...]
    tail: tuple[PlainLink, ...]
    """The head, and a stitch below it where there is one."""

    @property
    def links(self) -> tuple[PlainLink, ...]:
        """All of them, bottom first."""
        return (self.embed, *(link for layer in self.layers for link in layer), *self.tail)

    @property
    def parameters(self) -> int:
        """Parameters that one token goes through."""
        return sum(link.parameters for link in self.links)

    @property
    def vocab_size(self) -> int:
        """Rows of the head."""
        return int(self.tail[-1].arch["vocab_size"])

    def trained(self) -> list[Tensor]:
        """The tensors that an optimiser may change."""
        return [tensor for link in self.links for tensor in link.trained()]


def read_chain(zoo: Zoo, chain: Chain, device: torch.device) -> PlainChain:
    """All weights of a chain in float32.

    Raises UnsupportedError naming the family, kind of block or kind of attachment that gradients cannot go through.
    """
    name = str(chain.model.ref)
    if chain.model.family not in (*FAMILIES, STITCHED):
        raise UnsupportedError(f"models of the family {chain.model.family!r} cannot be trained here", where=name)
    return divide([_read_link(zoo, part, name, device) for part in chain.links], name)


def divide(links: Sequence[PlainLink], where: str) -> PlainChain:
    """Links by layers. Raises UnsupportedError where they do not run from an embedding through layers to a head."""
    kinds = [link.kind for link in links]
    if len(links) < 2 or kinds[0] != "embed" or kinds[-1] != "head" or {"embed", "head"} & set(kinds[1:-1]):
        raise UnsupportedError("a chain runs from an embed block to a head block", where=where)
    layers: list[list[PlainLink]] = []
    for link in links[1:-1]:
        opens = link.kind == "stitch" or (link.kind == "attn" and not (layers and layers[-1][-1].kind == "stitch"))
        if opens or not layers:
            layers.append([])
        layers[-1].append(link)
    tail = list(layers.pop()) if layers and layers[-1][-1].kind == "stitch" else []
    return PlainChain(links[0], tuple(tuple(layer) for layer in layers), (*tail, links[-1]))


def _read_link(zoo: Zoo, part: Part, name: str, device: torch.device) -> PlainLink:
    where = f"{name}: {part.name}"
    if part.block.kind not in KINDS or part.block.children:
        raise UnsupportedError(f"{part.block.kind} blocks cannot be trained through", where=where)
    for attachment in part.attachments:
        if attachment.kind not in FOLDED_KINDS:
            raise UnsupportedError(f"a {attachment.kind} cannot be trained through", where=where)
    placement = Placement(device, torch.float32)
    tensors = {t.name: to_torch(fold(part, t, zoo.read), placement).clone() for t in part.block.tensors}
    return PlainLink(part.block.kind, part.block.arch, tensors, source=part)
