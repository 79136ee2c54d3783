"""Which agent holds which segment: all models together, by the placement policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quiltwork.core.errors import CapacityError
from quiltwork.core.names import ModelRef
from quiltwork.serving.policy.placement import Demand, Place, place
from quiltwork.serving.policy.queueing import Instance
from quiltwork.zoo.segments import segments
from quiltwork.zoo.types import Chain


@dataclass(frozen=True)
class Plan:
    """One model's cut and who is to hold its segments."""

    bounds: tuple[int, ...]
    keys: tuple[Instance, ...]
    holders: tuple[tuple[str, ...], ...]


def plan(
    chains: Mapping[ModelRef, Chain],
    places: Sequence[Place],
    present: Mapping[Instance, tuple[str, ...]],
    shares: Mapping[ModelRef, float] | None = None,
) -> dict[ModelRef, Plan]:
    """Cut all models where they part ways and give every segment an agent.

    Parameters
    ----------
    present : where segments stand now; one that was cut in two stays where the whole was.
    shares : of the requests, by model; equal where absent. All agents together are taken to be busy.

    Raises CapacityError naming the model whose segment fits nowhere.
    """
    cuts = segments({ref: chain.links for ref, chain in chains.items()})
    keys = {
        ref: tuple(tuple(part.block.id for part in chains[ref].links[run.start : run.stop]) for run in cuts[ref])
        for ref in chains
    }
    given = shares or {}
    even = 1.0 / max(len(chains), 1)
    capacity = sum(p.capacity for p in places)
    nbytes: dict[Instance, float] = {}
    load: dict[Instance, float] = {}
    traffic: dict[tuple[Instance, Instance], float] = {}
    for ref, chain in chains.items():
        share = given.get(ref, even)
        total = sum(part.block.nbytes for part in chain.links) or 1
        for key, run in zip(keys[ref], cuts[ref], strict=True):
            parts = chain.links[run.start : run.stop]
            bare = sum({part.block.id: part.block.nbytes for part in parts}.values())
            attached = sum(a.nbytes for part in parts for a in part.attachments)
            nbytes[key] = max(nbytes.get(key, 0.0), bare) + attached
            load[key] = load.get(key, 0.0) + share * capacity * 0.8 * bare / total
        for below, above in zip(keys[ref], keys[ref][1:], strict=False):
            traffic[below, above] = traffic.get((below, above), 0.0) + share
    old = {key: standing for key in nbytes if (standing := _standing(key, present))}
    demands = [Demand(key, nbytes[key], load[key]) for key in sorted(nbytes)]
    found = place(demands, traffic, places, present={key: standing[0] for key, standing in old.items()})
    names = {p.agent for p in places}
    plans: dict[ModelRef, Plan] = {}
    for ref in chains:
        missing = [key for key in keys[ref] if key not in found]
        if missing:
            raise CapacityError(
                "a segment fits no agent's memory", where=str(ref), hint="raise --memory or serve fewer models"
            )
        holders = tuple(
            (found[key], *(a for a in old.get(key, ())[1:] if a != found[key] and a in names)) for key in keys[ref]
        )
        bounds = (0, *(run.stop for run in cuts[ref]))
        plans[ref] = Plan(bounds, keys[ref], holders)
    return plans


def _standing(key: Instance, present: Mapping[Instance, tuple[str, ...]]) -> tuple[str, ...]:
    """Who has all blocks of a segment now, whatever segments they belong to there."""
    if key in present:
        return present[key]
    for whole, holders in present.items():
        if any(whole[i : i + len(key)] == key for i in range(len(whole) - len(key) + 1)):
            return holders
    return ()
