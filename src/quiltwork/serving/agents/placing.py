"""Which agent holds which segment: all models together, by the placement policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from quiltwork.core.errors import CapacityError
from quiltwork.core.names import ModelRef
from quiltwork.serving.agents.layout import Cut, cut_of
from quiltwork.serving.policy.cost import SegmentProfile
from quiltwork.serving.policy.placement import Demand, Place, place
from quiltwork.serving.policy.queueing import Instance
from quiltwork.serving.policy.settling import Lengths, Stream, settle
from quiltwork.zoo.segments import segments
from quiltwork.zoo.types import Chain


@dataclass(frozen=True)
class Plan:
    """One model's cut and who is to hold its segments."""

    bounds: tuple[int, ...]
    keys: tuple[Instance, ...]
    holders: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Expected:
    """What ``policy.settling`` goes by: what segments cost, and what will be asked.

    profile : of a segment of a cut; None where it is not known. rates : requests per second; where absent, all models
    are asked for alike, and so often that all agents together are half busy. width : bytes of a number.
    """

    profile: Callable[[Cut, int], SegmentProfile | None]
    rates: Mapping[ModelRef, float]
    lengths: Lengths
    width: int
    power: float = 1.0
    hysteresis: float = 0.1


def plan(
    chains: Mapping[ModelRef, Chain],
    places: Sequence[Place],
    present: Mapping[Instance, tuple[str, ...]],
    shares: Mapping[ModelRef, float] | None = None,
    expected: Expected | None = None,
) -> dict[ModelRef, Plan]:
    """Cut all models where they part ways and give every segment an agent.

    Parameters
    ----------
    present : where segments stand now; one that was cut in two stays where the whole was.
    shares : of the requests, by model; equal where absent. All agents together are taken to be busy.
    expected : given to have whole chains settle on agents by the steps that result, where what they cost is known and
        every chain fits an agent.

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
    names = {p.agent for p in places}
    if expected is not None:
        settled = _settled(chains, cuts, keys, nbytes, places, old, expected)
        if settled is not None:
            return {
                ref: Plan((0, *(run.stop for run in cuts[ref])), keys[ref], _holders(keys[ref], settled))
                for ref in chains
            }
    demands = [Demand(key, nbytes[key], load[key]) for key in sorted(nbytes)]
    found = place(demands, traffic, places, present={key: standing[0] for key, standing in old.items()})
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


def _settled(
    chains: Mapping[ModelRef, Chain],
    cuts: Mapping[ModelRef, Sequence[range]],
    keys: Mapping[ModelRef, tuple[Instance, ...]],
    nbytes: Mapping[Instance, float],
    places: Sequence[Place],
    old: Mapping[Instance, tuple[str, ...]],
    expected: Expected,
) -> dict[str, tuple[Instance, ...]] | None:
    """Segments by agent; None where the cost of one is not known, or a chain fits no agent."""
    profiles: dict[Instance, SegmentProfile] = {}
    for ref, chain in chains.items():
        bounds = (0, *(run.stop for run in cuts[ref]))
        cut = cut_of(chain, bounds, tuple(() for _ in keys[ref]), expected.width)
        for segment, key in enumerate(keys[ref]):
            known = expected.profile(cut, segment)
            if known is None:
                return None
            profiles[key] = replace(known, weight_bytes=int(nbytes[key]), kv_bytes=cut.kv_bytes[segment])
    rates = expected.rates
    if not rates:
        alone = sum(_request_s(keys[ref], profiles, expected.lengths) for ref in chains) / max(len(chains), 1)
        rates = dict.fromkeys(chains, 0.5 * len(places) / max(alone, 1e-9) / max(len(chains), 1))
    streams = [Stream(str(ref), keys[ref], rates[ref]) for ref in chains]
    present = {p.agent: [key for key, holders in old.items() if p.agent in holders] for p in places}
    found = settle(
        streams, profiles, places, expected.lengths, power=expected.power, present=present,
        hysteresis=expected.hysteresis,
    )  # fmt: skip
    homeless = [ref for ref in chains if not any(set(held) >= set(keys[ref]) for held in found.values())]
    return None if homeless else found


def _request_s(route: Sequence[Instance], profiles: Mapping[Instance, SegmentProfile], lengths: Lengths) -> float:
    """Seconds that a request takes on an agent that it has to itself."""
    return sum(
        profiles[key].prefill_s(lengths.prompt_tokens) + lengths.output_tokens * profiles[key].batch_s(1)
        for key in route
    )


def _holders(route: Sequence[Instance], held: Mapping[str, Sequence[Instance]]) -> tuple[tuple[str, ...], ...]:
    """Per segment who has it, those that have the whole chain first."""
    order = sorted(held, key=lambda agent: (not set(held[agent]) >= set(route), agent))
    return tuple(tuple(agent for agent in order if key in held[agent]) for key in route)


def _standing(key: Instance, present: Mapping[Instance, tuple[str, ...]]) -> tuple[str, ...]:
    """Who has all blocks of a segment now, whatever segments they belong to there."""
    if key in present:
        return present[key]
    for whole, holders in present.items():
        if any(whole[i : i + len(key)] == key for i in range(len(whole) - len(key) + 1)):
            return holders
    return ()
