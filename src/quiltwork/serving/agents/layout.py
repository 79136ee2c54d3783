"""A model's chain as agents hold it: segments of the whole chain, some of them here."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from quiltwork.core.errors import NotFoundError, UnsupportedError
from quiltwork.core.names import ModelRef, parse_ref
from quiltwork.serving.agents.message import Lay
from quiltwork.serving.kv import KVCache, KVShape
from quiltwork.serving.policy.queueing import Instance
from quiltwork.serving.route import Link, Route, Segment
from quiltwork.serving.weights import Library, LoadedBlock
from quiltwork.zoo.segments import chain_hashes, kv_shape
from quiltwork.zoo.types import Chain, Part, RawTensor, TensorRef


class BlockSource(Protocol):
    """Where an agent finds chains and their tensors: a zoo that it can open."""

    def chain(self, ref: ModelRef) -> Chain:
        """The model as a chain."""
        ...

    def read(self, ref: TensorRef) -> RawTensor:
        """A tensor's bytes."""
        ...


@dataclass(frozen=True)
class Cut:
    """How a model is cut and who has its segments: what dispatch needs to know of it, wherever it is decided."""

    keys: tuple[Instance, ...]
    """Per segment, its block ids."""
    holders: tuple[tuple[str, ...], ...]
    kv_bytes: tuple[int, ...]
    """Per segment, bytes of keys and values of one token."""
    hidden_bytes: int
    """Bytes of one row of hidden state."""


def cut_of(chain: Chain, bounds: Sequence[int], holders: tuple[tuple[str, ...], ...], width: int) -> Cut:
    """A chain's cut at ``bounds``; ``width`` is the bytes of a number."""
    spans = list(itertools.pairwise(bounds))
    return Cut(
        keys=tuple(tuple(part.block.id for part in chain.links[a:b]) for a, b in spans),
        holders=holders,
        kv_bytes=tuple(sum(_kv_bytes(part, width) for part in chain.links[a:b]) for a, b in spans),
        hidden_bytes=int(chain.links[0].block.arch["hidden_size"]) * width,
    )


@dataclass(eq=False)
class Layout:
    """One version of a model, cut one way, as one agent holds it."""

    id: int
    chain: Chain
    route: Route
    """All segments; those that are not here have no links."""
    cut: Cut
    loaded: dict[int, list[tuple[LoadedBlock, Part]]] = field(default_factory=dict)
    """Per segment here, its blocks."""
    virtual_tokens: int = 0
    copies_prefix: bool = False

    def holds(self, segment: int) -> bool:
        """Whether a segment is here."""
        return segment in self.loaded

    @property
    def page_bytes(self) -> tuple[int, ...]:
        """Per segment, bytes of one page of tokens; 0 where it is not here or keeps none."""
        return tuple(s.kv_blocks * s.pool.page_bytes if s.pool is not None else 0 for s in self.route)


def lay(message: Lay, agent: str, library: Library, cache: KVCache, source: BlockSource) -> Layout:
    """Load what an agent is to hold of a model.

    Raises NotFoundError where the source has another version by now, UnsupportedError naming what cannot be executed;
    then nothing stays loaded.
    """
    chain = source.chain(parse_ref(message.model))
    if chain.model.version != message.version:
        raise NotFoundError(f"version {message.version} is no longer there", where=message.model)
    hashes = chain_hashes(chain.links)
    loaded: dict[int, list[tuple[LoadedBlock, Part]]] = {}
    route: list[Segment] = []
    try:
        for index, (start, stop) in enumerate(itertools.pairwise(message.bounds)):
            parts = chain.links[start:stop]
            links: list[Link] = []
            if agent in message.holders[index]:
                held = loaded[index] = []
                for part in parts:
                    links.append(_load(part, library, source, held))
            route.append(_segment(chain, parts, tuple(links), start, stop, hashes[stop - 1], cache))
    except BaseException:
        let_go(loaded, library)
        raise
    width = torch.empty((), dtype=cache.dtype).element_size()
    attached = [a for part in chain.links for a in part.attachments]
    virtual = [int(a.arch["num_virtual_tokens"]) for a in attached if "num_virtual_tokens" in a.arch]
    return Layout(
        message.layout,
        chain,
        tuple(route),
        cut_of(chain, message.bounds, message.holders, width),
        loaded=loaded,
        virtual_tokens=max(virtual, default=0),
        copies_prefix=any(a.kind == "prefix" for a in attached),
    )


def let_go(loaded: dict[int, list[tuple[LoadedBlock, Part]]], library: Library) -> None:
    """Hold the blocks of a layout once less."""
    for blocks in loaded.values():
        for block, part in blocks:
            library.detach(block, part.attachments)
            library.release(block)
    loaded.clear()


def _kv_bytes(part: Part, width: int) -> int:
    shape = kv_shape(part.block.arch)
    return 2 * shape[0] * shape[1] * width if shape is not None else 0


def _load(part: Part, library: Library, source: BlockSource, held: list[tuple[LoadedBlock, Part]]) -> Link:
    block = library.acquire(part.block, source.read)
    try:
        attached = library.attach(block, part.attachments, source.read)
    except BaseException:
        library.release(block)
        raise
    held.append((block, part))
    shape = kv_shape(part.block.arch)
    return Link(part.name, part.block.kind, block.executor, attached, None if shape is None else KVShape(*shape))


def _segment(
    chain: Chain, parts: Sequence[Part], links: tuple[Link, ...], start: int, stop: int, hash: str, cache: KVCache
) -> Segment:
    shapes = {link.kv_shape for link in links if link.kv_shape is not None}
    if len(shapes) > 1:
        raise UnsupportedError("attention blocks with different KV shapes in one segment", where=str(chain.model.ref))
    blocks = sum(link.kv_shape is not None for link in links)
    return Segment(
        key=tuple(part.block.id for part in parts),
        start=start,
        height=start,
        links=links,
        kv_blocks=blocks,
        pool=cache.pool(next(iter(shapes))) if shapes else None,
        chain_hash=hash,
        attached_below=any(part.attachments for part in chain.links[:stop]),
        keeps_activation=False,  # whoever is handed the rows keeps them (session.History)
        last=stop == len(chain.links),
    )
