"""Whole chains on single agents: who gets a home for its chain, and where a second one takes load off the first.

``placement.place`` gives every segment a place; here chains are what is placed, because a chain that runs on one agent
pays no hop. Segments that chains share are there once per agent, so a second chain costs only what it does not share.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from quiltwork.serving.policy.placement import Change
from quiltwork.serving.policy.queueing import Instance

Chain = Sequence[Instance]


def complete(
    chains: Sequence[Sequence[Instance]],
    agents: Mapping[Instance, Collection[str]],
    nbytes: Mapping[Instance, float],
    free_bytes: Mapping[str, float],
) -> tuple[Change, ...]:
    """Replicas that let chains run on one agent each that now cannot: those that come first are served first.

    A chain gets what it lacks where that is the fewest bytes, if they are free there; among equals where most room is.
    """
    here = {instance: set(names) for instance, names in agents.items()}
    room = dict(free_bytes)
    changes: list[Change] = []
    for chain in chains:
        lacking = {a: sum(nbytes[i] for i in dict.fromkeys(chain) if a not in here.get(i, ())) for a in room}
        if not lacking or min(lacking.values()) == 0:
            continue
        fitting = [a for a in room if lacking[a] <= room[a]]
        if not fitting:
            continue
        best = min(fitting, key=lambda a: (lacking[a], -room[a], a))
        for instance in dict.fromkeys(chain):
            if best not in here.setdefault(instance, set()):
                here[instance].add(best)
                room[best] -= nbytes[instance]
                changes.append(Change(instance, best, True))
    return tuple(changes)


def spread(
    chains: Mapping[str, Chain],
    loads: Mapping[str, float],
    agents: Mapping[Instance, Collection[str]],
    nbytes: Mapping[Instance, float],
    free_bytes: Mapping[str, float],
    *,
    enough: float = 0.2,
) -> tuple[Change, ...]:
    """Replicas that level the load: the chain whose agents are busiest gets what it lacks on the idlest that has room.

    Parameters
    ----------
    loads : busy seconds per second that each chain asks for.
    enough : agents that are busy for no more than this share need no help.

    Ends where nobody busier than that can be helped by an idler agent. Deterministic.
    """
    here = {instance: set(names) for instance, names in agents.items()}
    room = dict(free_bytes)
    alike: dict[tuple[Instance, ...], float] = {}
    for name in sorted(chains):
        key = tuple(dict.fromkeys(chains[name]))
        alike[key] = alike.get(key, 0.0) + loads[name]
    homes = {key: [a for a in sorted(room) if all(a in here.get(i, ()) for i in key)] for key in alike}
    changes: list[Change] = []
    helpless: set[tuple[Instance, ...]] = {key for key in alike if not homes[key]}
    levels = level(alike, homes, room)
    while True:
        busy = [(min(levels[a] for a in homes[key]), key) for key in alike if key not in helpless and alike[key] > 0]
        if not busy:
            return tuple(changes)
        surface, key = max(busy)
        lacking = {
            a: sum(nbytes[i] for i in key if a not in here.get(i, ())) for a in sorted(room) if a not in homes[key]
        }
        fitting = [a for a, need in lacking.items() if need <= room[a] and levels[a] < surface * 0.9]
        if surface <= enough or not fitting:
            helpless.add(key)
            continue
        best = min(fitting, key=lambda a: (levels[a], lacking[a], a))
        for instance in key:
            if best not in here.setdefault(instance, set()):
                here[instance].add(best)
                room[best] -= nbytes[instance]
                changes.append(Change(instance, best, True))
        for other, at in homes.items():
            if best not in at and all(best in here.get(i, ()) for i in other):
                at.append(best)
        levels = level(alike, homes, room)


def level(
    loads: Mapping[tuple[Instance, ...], float],
    homes: Mapping[tuple[Instance, ...], Sequence[str]],
    agents: Collection[str],
    rounds: int = 8,
) -> dict[str, float]:
    """Load by agent, each chain's dealt to its homes so that they are as equally busy as they can be (nearly)."""
    total = dict.fromkeys(sorted(agents), 0.0)
    split: dict[tuple[Instance, ...], dict[str, float]] = {}
    for key in sorted(loads):
        if homes[key]:
            split[key] = pour(loads[key], {a: total[a] for a in homes[key]})
            for agent, share in split[key].items():
                total[agent] += share
    for _ in range(rounds):
        for key, shares in split.items():
            if len(shares) > 1 or len(homes[key]) > 1:
                for agent, share in shares.items():
                    total[agent] -= share
                split[key] = pour(loads[key], {a: total[a] for a in homes[key]})
                for agent, share in split[key].items():
                    total[agent] += share
    return total


def pour(amount: float, levels: Mapping[str, float]) -> dict[str, float]:
    """``amount`` poured over vessels of given levels: it fills the lowest first."""
    order = sorted(levels, key=lambda a: (levels[a], a))
    surface, left = levels[order[0]], amount
    for i, agent in enumerate(order[1:], 1):
        step = (levels[agent] - surface) * i
        if step >= left:
            break
        left -= step
        surface = levels[agent]
    else:
        i = len(order)
    surface += left / i
    return {a: max(surface - levels[a], 0.0) for a in levels}
