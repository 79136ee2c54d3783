"""How segments fare, from the agents' signs of life, and what the replication policy makes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from quiltwork.serving.agents.message import Beat
from quiltwork.serving.agents.placing import Plan
from quiltwork.serving.policy.placement import Change, Standing, replicas
from quiltwork.serving.policy.queueing import Instance
from quiltwork.zoo.segments import segment_id


def label(instance: Instance) -> str:
    """A segment's name in an agent's figures, as in explanations and in the log of batches."""
    return segment_id(instance)


@dataclass(frozen=True)
class Lately:
    """One agent between two signs of life."""

    busy: float
    """Share of the time that it ran batches."""
    rows: Mapping[str, float]
    """Rows run, by segment."""
    wait_p95_s: Mapping[str, float]


def between(before: Beat, after: Beat, seconds: float) -> Lately:
    """What an agent did in ``seconds`` between two signs of life of the same agent."""
    rows = {
        name: figures["rows"] - before.queues.get(name, {}).get("rows", 0.0) for name, figures in after.queues.items()
    }
    waits = {name: figures["wait_p95_s"] for name, figures in after.queues.items()}
    return Lately(min(max(after.busy_s - before.busy_s, 0.0) / seconds, 1.0), rows, waits)


def standings(plans: Iterable[Plan], nbytes: Mapping[Instance, float], lately: Mapping[str, Lately]) -> list[Standing]:
    """Every held segment as the replication policy sees it.

    A segment is as loaded as its agents are, where it has a part in that: nothing else can be done with the time an
    agent is busy. A segment that nobody asked for is idle, however busy its agent is.
    """
    agents: dict[Instance, tuple[str, ...]] = {}
    for plan in plans:
        agents |= dict(zip(plan.keys, plan.holders, strict=True))
    found = []
    for instance, holders in sorted(agents.items()):
        here = [lately[name] for name in holders if name in lately]
        if len(here) < len(holders):
            continue  # one of them has just started, or is gone
        used = [agent.busy if agent.rows.get(label(instance), 0.0) > 0 else 0.0 for agent in here]
        waits = [agent.wait_p95_s.get(label(instance), 0.0) for agent in here]
        found.append(
            Standing(instance, nbytes.get(instance, 0.0), holders, sum(used) / len(used), max(waits, default=0.0))
        )
    return found


def changes(
    plans: Sequence[Plan],
    nbytes: Mapping[Instance, float],
    lately: Mapping[str, Lately],
    free_bytes: Mapping[str, float],
    *,
    wait_limit_s: float,
) -> tuple[Change, ...]:
    """Replicas to add and to retire now, the idler agents first."""
    held = standings(plans, nbytes, lately)
    idle = {(s.instance, name): 1.0 - lately[name].busy for s in held for name in free_bytes if name in lately}
    # An agent as busy as those that have the segment would not help it.
    useful = {name: free for name, free in free_bytes.items() if name in lately and lately[name].busy < 0.5}
    return replicas(held, useful, wait_limit_s=wait_limit_s, near=idle)


def changed(plan: Plan, wanted: Sequence[Change]) -> tuple[tuple[str, ...], ...]:
    """A model's holders with those changes that concern it."""
    holders = [list(names) for names in plan.holders]
    for change in wanted:
        for names, key in zip(holders, plan.keys, strict=True):
            if key == change.instance and change.add and change.agent not in names:
                names.append(change.agent)
            if key == change.instance and not change.add and change.agent in names and len(names) > 1:
                names.remove(change.agent)
    return tuple(tuple(names) for names in holders)
