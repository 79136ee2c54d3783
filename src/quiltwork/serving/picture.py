"""The live picture of an engine: who shares which blocks, what waits, what the last step held."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Json
from quiltwork.serving.engine import EngineStats
from quiltwork.zoo.types import Chain


def picture(
    chains: Mapping[ModelRef, Chain],
    stats: EngineStats,
    *,
    outstanding: int,
    room: int,
    pinned: Collection[ModelRef] = (),
) -> dict[str, Json]:
    """What the dashboard shows, as JSON.

    ``models`` has a row per model with a cell per place of its chain: the block there, its bytes, how many of the
    models hold the very same block, and what is attached; the parts that another model's block serves; and whether it
    is in memory and stays there.
    ``segments`` has the models that run through each segment, ``tenants`` how each tenant stands.
    """
    owners: dict[str, set[ModelRef]] = {}
    for ref, chain in chains.items():
        for part in chain.links:
            owners.setdefault(part.block.id, set()).add(ref)
    runs: dict[tuple[str, ...], list[str]] = {}
    for ref in sorted(stats.routes):
        for key in stats.routes[ref]:
            runs.setdefault(key, []).append(str(ref))
    return {
        "models": [
            {
                "model": str(ref),
                "name": ref.name,
                "tenant": ref.tenant,
                "family": chain.model.family,
                "version": chain.model.version,
                "parent": str(chain.model.base) if chain.model.base is not None else None,
                "resident": ref in stats.routes,
                "pinned": ref in pinned,
                "segments": len(stats.routes.get(ref, ())),
                "substituted": [substitution.part for substitution in chain.model.substitutions],
                "cells": [
                    {
                        "part": part.name,
                        "kind": part.block.kind,
                        "block": part.block.id,
                        "bytes": part.block.nbytes,
                        "shared_by": len(owners[part.block.id]),
                        "attachments": [
                            {"kind": block.kind, "block": block.id, "bytes": block.nbytes} for block in part.attachments
                        ],
                    }
                    for part in chain.links
                ],
            }
            for ref, chain in sorted(chains.items())
        ],
        "segments": [{"blocks": len(key), "first": key[0], "models": models} for key, models in runs.items()],
        "queue": {
            "running": stats.running,
            "waiting": stats.waiting,
            "outstanding": outstanding,
            "room": room,
        },
        "batches": [
            {"blocks": b.blocks, "rows": b.rows, "sequences": b.sequences, "models": b.models}
            for b in stats.last_batches
        ],
        "kv": {
            "used_bytes": stats.kv_used_bytes,
            "held_bytes": stats.kv_held_bytes,
            "capacity_bytes": stats.kv_capacity_bytes,
            "queries": stats.kv.queries,
            "hits": stats.kv.hits,
        },
        "weights": {
            "bytes": stats.weight_bytes,
            "without_sharing": sum(
                block.nbytes for ref, chain in chains.items() if ref in stats.routes for part in chain.links
                for block in (part.block, *part.attachments)
            ),
        },
        "tokens": {
            "prompt": stats.prompt_tokens,
            "cached_prompt": stats.cached_prompt_tokens,
            "generated": stats.generated_tokens,
        },
        "tenants": [
            {
                "tenant": tenant,
                "running": standing.running,
                "waiting": standing.waiting,
                "kv_held_bytes": standing.kv_held_bytes,
                "kv_cached_bytes": standing.kv_cached_bytes,
                "prompt_tokens": standing.prompt_tokens,
                "generated_tokens": standing.generated_tokens,
                "counter": round(standing.served, 3),
            }
            for tenant, standing in sorted(stats.tenants.items())
        ],
        "steps": stats.steps,
    }  # fmt: skip
