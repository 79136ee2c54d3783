"""Where chains are cut: derived from who owns what, never stored.

A model that shares nothing is one segment. A cut stands between two links of a chain only where the set of models that
own the block changes, or the set of models whose chains are equal up to there changes: the first bounds what can be
batched together, the second bounds whose keys and values are the same. (BlockLLM's lazy partition.)
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from blake3 import blake3

from quiltwork.zoo.types import Part

Name = TypeVar("Name", bound=Hashable)


def link_id(part: Part) -> str:
    """What one link computes: its block and everything attached to it."""
    return "+".join((part.block.id, *(a.id for a in part.attachments)))


def chain_hashes(links: Sequence[Part]) -> tuple[str, ...]:
    """Per link, a hash of all links up to and including it: equal hashes mean equal functions of the tokens."""
    hashes: list[str] = []
    below = ""
    for part in links:
        below = blake3(f"{below}|{link_id(part)}".encode()).hexdigest()
        hashes.append(below)
    return tuple(hashes)


def segment_id(blocks: Iterable[str]) -> str:
    """A short name for a run of blocks, given their ids: equal runs have the same."""
    return blake3("|".join(blocks).encode()).hexdigest(length=6)


def kv_shape(arch: Mapping[str, Any]) -> tuple[int, int] | None:
    """(num_kv_heads, head_dim) of the keys and values that a block keeps; None where it keeps none."""
    return (int(arch["num_kv_heads"]), int(arch["head_dim"])) if "num_kv_heads" in arch else None


def segments(chains: Mapping[Name, Sequence[Part]]) -> dict[Name, tuple[range, ...]]:
    """Cut every chain into segments, as ranges of link indices that together cover the chain.

    Two chains that own the same run of blocks are cut alike there, so that the run is executed as one batch for both.
    The number of segments of a chain is at most one more than the number of owner-set and KV-shape changes along it.
    """
    owners: dict[str, set[Name]] = {}
    sharers: dict[str, set[Name]] = {}
    hashes = {name: chain_hashes(links) for name, links in chains.items()}
    for name, links in chains.items():
        for part, prefix in zip(links, hashes[name], strict=True):
            owners.setdefault(part.block.id, set()).add(name)
            sharers.setdefault(prefix, set()).add(name)

    cut_pairs: set[tuple[str, str]] = set()
    for name, links in chains.items():
        prefixes = hashes[name]
        for i in range(len(links) - 1):
            below, above = links[i].block.id, links[i + 1].block.id
            if owners[below] != owners[above] or sharers[prefixes[i]] != sharers[prefixes[i + 1]]:
                cut_pairs.add((below, above))
        keeping: tuple[int, int] | None = None
        for i, part in enumerate(links):
            shape = kv_shape(part.block.arch)
            if shape is not None and keeping is not None and shape != keeping:
                cut_pairs.add((links[i - 1].block.id, part.block.id))
            keeping = shape or keeping

    cut: dict[Name, tuple[range, ...]] = {}
    for name, links in chains.items():
        bounds = [0]
        bounds += [i + 1 for i in range(len(links) - 1) if (links[i].block.id, links[i + 1].block.id) in cut_pairs]
        bounds.append(len(links))
        cut[name] = tuple(range(a, b) for a, b in itertools.pairwise(bounds))
    return cut
