"""What stands where: at the start by placement, later by looking at how segments fare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import ceil

from quiltwork.serving.policy.placement import Change, Demand, Place, Standing, place, replicas
from quiltwork.serving.policy.queueing import Instance
from quiltwork.serving.policy.settling import Lengths, Stream, settle
from quiltwork.serving.policy.spreading import complete, level, pour, spread
from quiltwork.serving.simulate.agent import Agent
from quiltwork.serving.simulate.world import App, Cluster, Piece, Placed, Settings

BATCH = 16
"""Sequences that are taken to decode together where a load is only expected."""

STEPS_DOWN = (0.85, 0.7, 0.5, 0.35, 0.2, 0.1)
"""From which share of its replicas' time on a segment gets another one, while there is memory."""


def expected_load(piece: Piece, rate: float, prompt_tokens: float, output_tokens: float) -> float:
    """Busy seconds per second that a segment is asked for by ``rate`` requests per second."""
    context = BATCH * (prompt_tokens + output_tokens / 2)
    decoding = output_tokens * piece.profile.batch_s(BATCH, context) / BATCH
    return rate * (piece.profile.prefill_s(prompt_tokens) + decoding)


def provision(
    cluster: Cluster,
    apps: Sequence[App],
    rates: Mapping[str, float],
    settings: Settings,
    *,
    prompt_tokens: float,
    output_tokens: float,
) -> Placed:
    """A first placement for expected request rates: a home for every chain, then more where that levels the load.

    Parameters
    ----------
    rates : requests per second by app, as expected.
    prompt_tokens, output_tokens : of a mean request.

    All that decides is in ``policy``; every arm is provisioned by this function. Segments that fit nowhere are left to
    be loaded when asked for. Without ``settings.locality`` segments are placed one by one, whatever follows them.
    """
    pieces = {piece.instance: piece for app in apps for piece in app.route}
    load = dict.fromkeys(pieces, 0.0)
    chain_load = {}
    for app in apps:
        own = {p.instance: expected_load(p, rates[app.name], prompt_tokens, output_tokens) for p in app.route}
        chain_load[app.name] = sum(own.values())
        for instance, seconds in own.items():
            load[instance] += seconds
    nbytes = {i: float(p.profile.weight_bytes) for i, p in pieces.items()}
    usable = 1 - settings.reserve_share - settings.kv_share
    places = [Place(d.agent, d.memory_bytes * usable, 1.0, d.server) for d in cluster.devices]
    agents: dict[Instance, list[str]] = {}
    free = {p.agent: p.memory_bytes for p in places}
    chains = {app.name: [p.instance for p in app.route] for app in apps}
    order = [chains[name] for name in sorted(chains, key=lambda n: (-chain_load[n], n))]
    if settings.provisioning == "settled":
        streams = [Stream(name, tuple(chains[name]), rates[name]) for name in sorted(chains)]
        lengths = Lengths(prompt_tokens, output_tokens, settings.prefill_chunk)
        room = [Place(d.agent, d.memory_bytes * (1 - settings.reserve_share), 1.0, d.server) for d in cluster.devices]
        profiles = {i: p.profile for i, p in pieces.items()}
        return settle(streams, profiles, room, lengths, kv_share=settings.kv_share, power=settings.power)
    if settings.provisioning == "chains":
        _add(complete(order, agents, nbytes, free), agents, nbytes, free)
        _add(spread(chains, chain_load, agents, nbytes, free, enough=settings.fill), agents, nbytes, free)
    else:
        _add(_placed(apps, load, nbytes, rates, places, settings), agents, nbytes, free)
        if settings.locality:
            _add(complete(order, agents, nbytes, free), agents, nbytes, free)
        for high in (h for h in STEPS_DOWN if h >= settings.fill):
            while added := _busiest(apps, pieces, load, nbytes, agents, free, high, settings.locality):
                _add(added, agents, nbytes, free)
    placed: dict[str, list[Instance]] = {d.agent: [] for d in cluster.devices}
    for instance in sorted(agents):
        for agent in agents[instance]:
            placed[agent].append(instance)
    return placed


def _placed(
    apps: Sequence[App],
    load: Mapping[Instance, float],
    nbytes: Mapping[Instance, float],
    rates: Mapping[str, float],
    places: Sequence[Place],
    settings: Settings,
) -> list[Change]:
    """Segments by ``policy.place``, as many copies of each as its load needs: one must not be more than a device."""
    traffic: dict[tuple[Instance, Instance], float] = {}
    for app in apps if settings.locality else ():
        for below, above in pairwise(app.route):
            edge = (below.instance, above.instance)
            traffic[edge] = traffic.get(edge, 0.0) + rates[app.name] * above.profile.hidden_bytes
    copies = {i: min(max(ceil(load[i] / settings.fill), 1), len(places)) for i in sorted(load)}
    found = place(
        [Demand((*i, str(k)), nbytes[i], load[i] / copies[i]) for i in copies for k in range(copies[i])],
        {
            ((*a, str(j)), (*b, str(k))): moved / copies[a] / copies[b]
            for (a, b), moved in sorted(traffic.items())
            for j in range(copies[a])
            for k in range(copies[b])
        },
        places,
        weights=settings.placement,
    )
    return [Change(i, a, True) for i, a in sorted({(copy[:-1], agent) for copy, agent in found.items()})]


def _busiest(
    apps: Sequence[App],
    pieces: Mapping[Instance, Piece],
    load: Mapping[Instance, float],
    nbytes: Mapping[Instance, float],
    agents: Mapping[Instance, Sequence[str]],
    free: Mapping[str, float],
    high: float,
    locality: bool,
) -> list[Change]:
    """One more replica of the segment that needs it most, for it changes how all others fare; none where none does."""
    homes: dict[tuple[Instance, ...], Sequence[str]] = {(i,): at for i, at in agents.items()}
    total = level({(i,): load[i] for i in agents}, homes, free)
    standings = []
    for instance, at in sorted(agents.items()):
        poured = pour(load[instance], {a: total[a] for a in at})
        room = sum(max(1.0 - total[a] + poured[a], 0.0) for a in at)
        rho = load[instance] / room if room > 0 else (2.0 if load[instance] else 0.0)
        standings.append(Standing(instance, nbytes[instance], tuple(at), rho))
    found = replicas(standings, free, high=high, low=0.0, near=_near(apps, pieces, agents) if locality else None)
    return [c for c in found if c.add][:1]


def _add(
    changes: Sequence[Change],
    agents: dict[Instance, list[str]],
    nbytes: Mapping[Instance, float],
    free: dict[str, float],
) -> None:
    for change in changes:
        agents.setdefault(change.instance, []).append(change.agent)
        free[change.agent] -= nbytes[change.instance]


def _near(
    apps: Iterable[App], pieces: Mapping[Instance, Piece], agents: Mapping[Instance, Sequence[str]]
) -> dict[tuple[Instance, str], float]:
    """Per segment and agent, how many of the segment's neighbours stand there."""
    neighbours: dict[Instance, set[Instance]] = {i: set() for i in pieces}
    for app in apps:
        for a, b in zip(app.route, app.route[1:], strict=False):
            neighbours[a.instance].add(b.instance)
            neighbours[b.instance].add(a.instance)
    near: dict[tuple[Instance, str], float] = {}
    for instance, others in neighbours.items():
        for other in others:
            for agent in agents.get(other, ()):
                near[instance, agent] = near.get((instance, agent), 0.0) + 1.0
    return near


def changes(
    agents: Mapping[str, Agent], pieces: Mapping[Instance, Piece], apps: Iterable[App], settings: Settings
) -> tuple[Change, ...]:
    """Replicas to add and retire, by what agents did since the last look. Clears their books for the next one."""
    at: dict[Instance, list[str]] = {}
    for agent in agents.values():
        for instance in agent.resident:
            if instance not in agent.draining:
                at.setdefault(instance, []).append(agent.name)
    standings = []
    for instance, names in sorted(at.items()):
        own = sum(agents[n].work_of[instance] for n in names)
        room = sum(settings.period_s - sum(agents[n].work_of.values()) + agents[n].work_of[instance] for n in names)
        waits = sorted(w for n in names for w in agents[n].waits[instance])
        standings.append(
            Standing(
                instance,
                pieces[instance].profile.weight_bytes,
                tuple(names),
                own / room if room > 0 else 0.0,
                waits[min(int(0.95 * len(waits)), len(waits) - 1)] if waits else 0.0,
            )
        )
    free = {
        a.name: a.free - a.promised_bytes - (a.capacity - a.weight_bytes) * settings.kv_share for a in agents.values()
    }
    found = replicas(
        standings,
        free,
        wait_limit_s=settings.wait_limit_s,
        high=settings.high,
        low=settings.low,
        near=_near(apps, pieces, at) if settings.locality else None,
    )
    for agent in agents.values():
        agent.work_of.clear()
        agent.waits.clear()
    # Once everything of a segment is gone, only a request would bring it back: the policy never retires the last one.
    return tuple(c for c in found if c.add or len(at[c.instance]) > 1)
