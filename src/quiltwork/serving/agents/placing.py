"""Which agent holds which segment: all models together, by the placement policy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil
from typing import Protocol

from quiltwork.core.errors import CapacityError
from quiltwork.core.names import ModelRef
from quiltwork.serving.agents.layout import Cut, cut_of
from quiltwork.serving.policy.cost import SegmentProfile
from quiltwork.serving.policy.placement import Demand, Place, place
from quiltwork.serving.policy.queueing import Instance
from quiltwork.serving.policy.settling import Lengths, Stream, settle
from quiltwork.serving.weights import Content, units, weight_bytes
from quiltwork.zoo.segments import segments
from quiltwork.zoo.types import Chain, Part

Cuts = Mapping[ModelRef, tuple[range, ...]]
"""Where chains are cut: ranges of link indices that together cover each."""


@dataclass(frozen=True)
class Plan:
    """One model's cut and who is to hold its segments."""

    bounds: tuple[int, ...]
    keys: tuple[Instance, ...]
    holders: tuple[tuple[str, ...], ...]


class Standing(Protocol):
    """A chain that agents hold, cut and placed one way."""

    @property
    def chain(self) -> Chain:
        """What they hold."""
        ...

    @property
    def plan(self) -> Plan:
        """Who holds what of it."""
        ...


@dataclass(frozen=True)
class Planned:
    """A chain, and how it is to be held."""

    chain: Chain
    plan: Plan


@dataclass(frozen=True)
class Expected:
    """What ``policy.settling`` goes by: what segments cost, and what will be asked.

    profile : of a segment of a cut; None where it is not known. rates : requests per second; where absent, all models
    are asked for alike, and so often that all agents together are half busy.
    """

    profile: Callable[[Cut, int], SegmentProfile | None]
    rates: Mapping[ModelRef, float]
    lengths: Lengths
    power: float = 1.0


def plan(
    chains: Mapping[ModelRef, Chain],
    places: Sequence[Place],
    present: Mapping[Instance, tuple[str, ...]],
    shares: Mapping[ModelRef, float] | None = None,
    *,
    cuts: Cuts | None = None,
    width: int = 4,
    hysteresis: float = 0.1,
    expected: Expected | None = None,
) -> dict[ModelRef, Plan]:
    """Cut all models where they part ways and give every segment an agent.

    Parameters
    ----------
    present : where segments stand now; one that was cut in two stays where the whole was. Further replicas stay where
        there is room for them.
    shares : of the requests, by model; equal where absent. All agents together are taken to be busy.
    cuts : where chains are cut, at least those; found from them where absent.
    width : bytes of a number in memory.
    hysteresis : of the placement's value that must be gained for segments to move.
    expected : given to have whole chains settle on agents by the steps that result, where what they cost is known and
        every chain fits an agent.

    Raises CapacityError naming the model whose segment fits nowhere.
    """
    if cuts is None:
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
        total = weight_bytes((part.block for part in chain.links), width) or 1
        for key, run in zip(keys[ref], cuts[ref], strict=True):
            bare, attached = segment_bytes(chain.links[run.start : run.stop], width)
            nbytes[key] = max(nbytes.get(key, 0.0), bare) + attached
            load[key] = load.get(key, 0.0) + share * capacity * 0.8 * bare / total
        for below, above in zip(keys[ref], keys[ref][1:], strict=False):
            traffic[below, above] = traffic.get((below, above), 0.0) + share
    old = {key: standing for key in nbytes if (standing := _standing(key, present))}
    if expected is not None:
        settled = _settled(chains, cuts, keys, nbytes, places, old, expected, width, hysteresis)
        if settled is not None:
            return {
                ref: Plan((0, *(run.stop for run in cuts[ref])), keys[ref], _holders(keys[ref], settled))
                for ref in chains
            }
    demands = [Demand(key, nbytes[key], load[key]) for key in sorted(nbytes)]
    found = place(demands, traffic, places, present={key: at[0] for key, at in old.items()}, hysteresis=hysteresis)
    replicas = _replicas(old, found, nbytes, places)
    plans: dict[ModelRef, Plan] = {}
    for ref in chains:
        missing = [key for key in keys[ref] if key not in found]
        if missing:
            raise CapacityError(
                "a segment fits no agent's memory", where=str(ref), hint="raise --memory or serve fewer models"
            )
        holders = tuple((found[key], *replicas.get(key, ())) for key in keys[ref])
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
    width: int,
    hysteresis: float,
) -> dict[str, tuple[Instance, ...]] | None:
    """Segments by agent; None where the cost of one is not known, or a chain fits no agent."""
    profiles: dict[Instance, SegmentProfile] = {}
    for ref, chain in chains.items():
        bounds = (0, *(run.stop for run in cuts[ref]))
        cut = cut_of(chain, bounds, tuple(() for _ in keys[ref]), width)
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
        streams, profiles, places, expected.lengths, power=expected.power, present=present, hysteresis=hysteresis
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


def _replicas(
    old: Mapping[Instance, tuple[str, ...]],
    found: Mapping[Instance, str],
    nbytes: Mapping[Instance, float],
    places: Sequence[Place],
) -> dict[Instance, tuple[str, ...]]:
    """Who keeps a segment beside its new holder: those that have it now and have room for it still."""
    free = {p.agent: p.memory_bytes for p in places}
    for key, agent in found.items():
        free[agent] -= nbytes[key]
    kept: dict[Instance, tuple[str, ...]] = {}
    for key in sorted(old):
        for agent in old[key][1:]:
            if agent != found.get(key) and free.get(agent, -1.0) >= nbytes[key]:
                free[agent] -= nbytes[key]
                kept[key] = (*kept.get(key, ()), agent)
    return kept


def split(cuts: Cuts, chains: Mapping[ModelRef, Chain], limit: float, width: int) -> Cuts:
    """Cut segments of more than ``limit`` bytes into as few even pieces as keep below it, in all models alike."""
    found: dict[ModelRef, tuple[range, ...]] = {}
    for ref, runs in cuts.items():
        pieces: list[range] = []
        for run in runs:
            sizes = [weight_bytes((part.block,), width) for part in chains[ref].links[run.start : run.stop]]
            count = ceil(sum(sizes) / limit) if sum(sizes) > limit else 1
            bounds = _even(sizes, count)
            while count < len(sizes) and any(sum(sizes[a:b]) > limit for a, b in pairwise(bounds)):
                count += 1
                bounds = _even(sizes, count)
            pieces += [range(run.start + a, run.start + b) for a, b in pairwise(bounds)]
        found[ref] = tuple(pieces)
    return found


def _even(sizes: Sequence[int], count: int) -> list[int]:
    """Bounds of at most ``count`` pieces of about the same sum."""
    each, done = sum(sizes) / count, 0.0
    bounds = [0]
    for i, size in enumerate(sizes):
        if i and done + size / 2 > each * len(bounds):
            bounds.append(i)
        done += size
    return [*bounds, len(sizes)]


def segment_bytes(links: Sequence[Part], width: int) -> tuple[int, int]:
    """Bytes in memory of a run of blocks, and of what one model attached to it."""
    bare = weight_bytes({part.block.id: part.block for part in links}.values(), width)
    return bare, weight_bytes((a for part in links for a in part.attachments), width)


def held_bytes(standing: Iterable[Standing], width: int) -> dict[str, dict[Content, int]]:
    """Bytes of all that agents hold for these, by agent and by what is loaded as one; each once."""
    held: dict[str, dict[Content, int]] = {}
    for each in standing:
        for (a, b), holders in zip(pairwise(each.plan.bounds), each.plan.holders, strict=True):
            for unit, blocks in units(each.chain.links[a:b]):
                nbytes = weight_bytes(blocks, width)
                for agent in holders:
                    held.setdefault(agent, {})[unit] = nbytes
    return held


def arrange(
    staying: Mapping[ModelRef, Standing],
    coming: Mapping[ModelRef, Chain],
    in_use: Collection[Standing],
    places: Sequence[Place],
    cuts: Cuts,
    width: int,
    expected: Expected | None = None,
) -> dict[ModelRef, Planned] | None:
    """How models that come find room beside those that stay, so that no agent ever holds more than its memory; None
    where they do not.

    First those that stay get their new layouts, while the old ones are still there; then the old ones go that are not
    ``in_use``; then the others come. Segments stay where they stand where the placement is good, or there is room only
    so.
    """
    present: dict[Instance, tuple[str, ...]] = {}
    for each in staying.values():
        present |= dict(zip(each.plan.keys, each.plan.holders, strict=True))
    chains = {**{ref: each.chain for ref, each in staying.items()}, **coming}
    for hysteresis in (0.1, float("inf")):
        try:
            plans = plan(chains, places, present, cuts=cuts, width=width, hysteresis=hysteresis, expected=expected)
        except CapacityError:
            continue
        planned = {ref: Planned(chain, plans[ref]) for ref, chain in chains.items()}
        moved = [planned[ref] for ref in staying]
        steps = [[*staying.values(), *in_use, *moved], [*in_use, *planned.values()]]
        if all(_fits(held_bytes(standing, width), places) for standing in steps):
            return planned
    return None


def _fits(held: Mapping[str, Mapping[Content, int]], places: Sequence[Place]) -> bool:
    room = {p.agent: p.memory_bytes for p in places}
    return all(sum(here.values()) <= room.get(agent, float("inf")) for agent, here in held.items())


def _standing(key: Instance, present: Mapping[Instance, tuple[str, ...]]) -> tuple[str, ...]:
    """Who has all blocks of a segment now, whatever segments they belong to there."""
    if key in present:
        return present[key]
    for whole, holders in present.items():
        if any(whole[i : i + len(key)] == key for i in range(len(whole) - len(key) + 1)):
            return holders
    return ()
