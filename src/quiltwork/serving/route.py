"""A served chain and the way through it: segments of loaded links, cut where the models loaded now part ways."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from quiltwork.core.names import ModelRef
from quiltwork.layers.protocol import PAGE_TOKENS, Executor, LoadedAttachment
from quiltwork.serving.kv import KVCache, KVShape, PagePool
from quiltwork.serving.weights import LoadedBlock
from quiltwork.zoo.segments import chain_hashes, segments
from quiltwork.zoo.types import Chain


@dataclass(frozen=True, eq=False)
class Link:
    """One loaded place of a chain."""

    name: str
    kind: str
    executor: Executor
    attached: LoadedAttachment | None
    kv_shape: KVShape | None
    """Set where the block keeps keys and values."""


@dataclass(frozen=True, eq=False)
class Segment:
    """A run of links that is executed without a hop."""

    key: tuple[str, ...]
    """Block ids: runs with equal keys are executed as one batch, whatever is attached to them."""
    start: int
    """Index of its first link in the chain."""
    height: int
    """Segments run from the lowest height up: above all that lie below it in any model (``_heights``)."""
    links: tuple[Link, ...]
    kv_blocks: int
    """Attention blocks; their keys and values have one shape."""
    pool: PagePool | None
    chain_hash: str
    """Of all links up to its end."""
    attached_below: bool
    """Whether a request's adapter scale changes what leaves it."""
    keeps_activation: bool
    """Whether models that go on differently share everything up to its end."""
    last: bool


Route = tuple[Segment, ...]


@dataclass(eq=False)
class Served:
    """One version of a model as the engine holds it. Replaced, never changed, by an upgrade."""

    ref: ModelRef
    chain: Chain
    loaded: tuple[LoadedBlock, ...]
    links: tuple[Link, ...]
    max_len: int
    virtual_tokens: int
    vocab_size: int
    weight_bytes: int
    """Bytes of weights that a row of its batch goes through, as the model has them."""
    route: Route = ()
    page_bytes: int = 0
    """Bytes of one page of tokens over all attention blocks."""
    most_pages: int = 0
    """Pages of tokens that one sequence can have in the pools of its shapes, whatever the budget says."""
    running: int = 0
    """Sequences that still use it."""
    retired: bool = False
    copies_prefix: bool = False
    """Whether its virtual tokens come as ready keys and values rather than as embeddings."""

    def kv_bytes(self, tokens: int) -> int:
        """Bytes of keys and values of a sequence of so many tokens, prompt and answer."""
        return -(-(self.virtual_tokens + tokens) // PAGE_TOKENS) * self.page_bytes


@dataclass(frozen=True)
class Cuts:
    """Where chains part ways, given all of them."""

    runs: Mapping[ModelRef, tuple[range, ...]]
    hashes: Mapping[ModelRef, tuple[str, ...]]
    sharers: Mapping[str, int]
    """Chains by prefix."""
    heights: Mapping[tuple[str, ...], int]


def cut_chains(chains: Mapping[ModelRef, Chain]) -> Cuts:
    """Cut all chains where they part ways."""
    runs = segments({ref: chain.links for ref, chain in chains.items()})
    hashes = {ref: chain_hashes(chain.links) for ref, chain in chains.items()}
    sharers: dict[str, int] = {}
    for prefixes in hashes.values():
        for prefix in prefixes:
            sharers[prefix] = sharers.get(prefix, 0) + 1
    return Cuts(runs, hashes, sharers, _heights(chains, runs))


def lay_routes(models: Mapping[ModelRef, Served], cuts: Cuts, cache: KVCache) -> dict[ModelRef, Route]:
    """The route of every loaded model; ``cuts`` are of their chains and may be of more."""
    routes: dict[ModelRef, Route] = {}
    for ref, served in models.items():
        hashes = cuts.hashes[ref]
        route: list[Segment] = []
        for run in cuts.runs[ref]:
            links = served.links[run.start : run.stop]
            shapes = [link.kv_shape for link in links if link.kv_shape is not None]
            last = run.stop == len(served.links)
            above = served.links[run.stop :]
            parts_ways = not last and cuts.sharers[hashes[run.stop]] < cuts.sharers[hashes[run.stop - 1]]
            key = _key(served.chain, run)
            route.append(
                Segment(
                    key=key,
                    start=run.start,
                    height=cuts.heights[key],
                    links=links,
                    kv_blocks=len(shapes),
                    pool=cache.pool(shapes[0]) if shapes else None,
                    chain_hash=hashes[run.stop - 1],
                    attached_below=any(part.attachments for part in served.chain.links[: run.stop]),
                    keeps_activation=bool(shapes) and parts_ways and any(link.kv_shape for link in above),
                    last=last,
                )
            )
        routes[ref] = tuple(route)
    return routes


def _key(chain: Chain, run: range) -> tuple[str, ...]:
    return tuple(part.block.id for part in chain.links[run.start : run.stop])


def _heights(chains: Mapping[ModelRef, Chain], cut: Mapping[ModelRef, tuple[range, ...]]) -> dict[tuple[str, ...], int]:
    """Where each segment stands in the order of execution, so that whoever can join a batch there has arrived.

    The highest link index at which it starts in any chain; more where a chain needs it, so that heights rise along
    every chain. A stitched chain reaches the upper blocks it shares with another model after a longer way up.
    """
    heights: dict[tuple[str, ...], int] = {}
    for ref, chain in chains.items():
        for run in cut[ref]:
            key = _key(chain, run)
            heights[key] = max(run.start, heights.get(key, 0))
    keys = {ref: [_key(chain, run) for run in cut[ref]] for ref, chain in chains.items()}
    for _ in range(len(heights)):  # no more rounds than segments: chains that disagree about the order never settle
        before = dict(heights)
        for way in keys.values():
            for below, above in itertools.pairwise(way):
                heights[above] = max(heights[above], heights[below] + 1)
        if heights == before:
            break
    return heights
