"""What stands where: at the start by placement, later by looking at how segments fare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import ceil

from quiltwork.serving.policy.placement import Change, Demand, Place, Standing, complete, place, replicas
from quiltwork.serving.policy.queueing import Instance
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
    """A first placement for expected request rates: each segment once, then replicas where they help, to the brim.

    Parameters
    ----------
    rates : requests per second by app, as expected.
    prompt_tokens, output_tokens : of a mean request.

    All that decides is ``policy.placement``; every arm is provisioned by this function. Segments that fit nowhere are
    left to be loaded when asked for.
    """
    pieces = {piece.instance: piece for app in apps for piece in app.route}
    rate: dict[Instance, float] = dict.fromkeys(pieces, 0.0)
    traffic: dict[tuple[Instance, Instance], float] = {}
    for app in apps:
        for i, piece in enumerate(app.route):
            rate[piece.instance] += rates[app.name]
            if i and settings.locality:
                edge = (app.route[i - 1].instance, piece.instance)
                moved = rates[app.name] * (prompt_tokens + output_tokens) * piece.profile.hidden_bytes
                traffic[edge] = traffic.get(edge, 0.0) + moved
    load = {i: expected_load(p, rate[i], prompt_tokens, output_tokens) for i, p in pieces.items()}
    usable = 1 - settings.reserve_share - settings.kv_share
    places = [Place(d.agent, d.memory_bytes * usable, 1.0, d.server) for d in cluster.devices]
    nbytes = {i: float(p.profile.weight_bytes) for i, p in pieces.items()}
    # As many copies to begin with as its load needs: a copy alone must not be more than a device can carry.
    copies = {i: min(max(ceil(load[i] / settings.fill), 1), len(places)) for i in sorted(pieces)}
    found = place(
        [Demand((*i, str(k)), nbytes[i], load[i] / copies[i]) for i in sorted(pieces) for k in range(copies[i])],
        {
            ((*a, str(j)), (*b, str(k))): moved / copies[a] / copies[b]
            for (a, b), moved in sorted(traffic.items())
            for j in range(copies[a])
            for k in range(copies[b])
        },
        places,
        weights=settings.placement,
    )
    agents: dict[Instance, list[str]] = {}
    for copy, agent in sorted(found.items()):
        if agent not in agents.setdefault(copy[:-1], []):
            agents[copy[:-1]].append(agent)
    free = {p.agent: p.memory_bytes - sum(nbytes[i] for i in agents if p.agent in agents[i]) for p in places}

    def add(change: Change) -> None:
        agents.setdefault(change.instance, []).append(change.agent)
        free[change.agent] -= nbytes[change.instance]

    if settings.locality:
        chains = [[p.instance for p in app.route] for app in sorted(apps, key=lambda a: (-rates[a.name], a.name))]
        for change in complete(chains, agents, nbytes, free):
            add(change)
    for high in (h for h in STEPS_DOWN if h >= settings.fill):
        while True:
            split = _balanced(load, agents)
            standings = [Standing(i, nbytes[i], tuple(agents[i]), _rho(i, agents[i], split)) for i in sorted(agents)]
            near = _near(apps, pieces, agents) if settings.locality else None
            added = [c for c in replicas(standings, free, high=high, low=0.0, near=near) if c.add]
            if not added:
                break
            add(added[0])  # the busiest one alone, for it changes how all others fare
    placed: dict[str, list[Instance]] = {d.agent: [] for d in cluster.devices}
    for instance in sorted(agents):
        for agent in agents[instance]:
            placed[agent].append(instance)
    return placed


def _balanced(
    load: Mapping[Instance, float], agents: Mapping[Instance, Sequence[str]]
) -> dict[Instance, dict[str, float]]:
    """Each segment's load dealt to its replicas so that devices are as equally loaded as they can be (roughly)."""
    split = {i: {a: load[i] / len(at) for a in at} for i, at in agents.items()}
    total: dict[str, float] = {}
    for shares in split.values():
        for agent, share in shares.items():
            total[agent] = total.get(agent, 0.0) + share
    for _ in range(10):
        for instance in sorted(split):
            shares = split[instance]
            if len(shares) < 2:
                continue
            for agent, share in shares.items():
                total[agent] -= share
            split[instance] = shares = _poured(load[instance], {a: total[a] for a in shares})
            for agent, share in shares.items():
                total[agent] += share
    return split


def _poured(amount: float, levels: Mapping[str, float]) -> dict[str, float]:
    """``amount`` poured into vessels of given levels, so that it fills the lowest first."""
    order = sorted(levels, key=lambda a: (levels[a], a))
    surface = levels[order[0]]
    left = amount
    for i, agent in enumerate(order[1:], 1):
        step = (levels[agent] - surface) * i
        if step >= left:
            surface += left / i
            left = 0.0
            break
        left -= step
        surface = levels[agent]
    if left > 0:
        surface += left / len(order)
    return {a: max(surface - levels[a], 0.0) for a in levels}


def _rho(instance: Instance, at: Sequence[str], split: Mapping[Instance, Mapping[str, float]]) -> float:
    """A segment's load by the time that others leave on its devices."""
    own = sum(split[instance].values())
    others = {a: sum(s.get(a, 0.0) for s in split.values()) - split[instance][a] for a in at}
    room = sum(max(1.0 - other, 0.0) for other in others.values())
    return own / room if room > 0 else (2.0 if own else 0.0)


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
