"""What stands where: placing segments near their neighbours, adding and retiring replicas, making room."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from quiltwork.serving.policy.queueing import Instance

Edge = tuple[Instance, Instance]


@dataclass(frozen=True)
class Place:
    """A server's agent, as placement sees it."""

    agent: str
    memory_bytes: float
    capacity: float = 1.0
    """Load that it can carry: busy seconds per second."""
    group: str = ""
    """Agents of one group have fast links between them (one host)."""


@dataclass(frozen=True)
class Demand:
    """One replica's worth of a segment: what it weighs and what it has to do."""

    instance: Instance
    nbytes: float
    load: float = 0.0
    """Busy seconds per second that it is asked for."""


@dataclass(frozen=True)
class Weights:
    """How much overload and a slow edge count against each other (lambda and mu of the design)."""

    overload: float = 10.0
    """Per unit of load beyond an agent's capacity."""
    near: float = 1.0
    """Gain per unit of traffic kept on one agent."""
    same_group: float = 0.5
    """Gain per unit of traffic kept within a group."""


def place(
    demands: Sequence[Demand],
    traffic: Mapping[Edge, float],
    places: Sequence[Place],
    *,
    present: Mapping[Instance, str] | None = None,
    weights: Weights | None = None,
    hysteresis: float = 0.1,
) -> dict[Instance, str]:
    """An agent for every segment: heaviest first to where it gains most, then moved while that helps.

    Parameters
    ----------
    traffic : bytes per second between segments that follow each other, in any unit.
    present : where segments stand now. They stay, and the others find places beside them, unless the whole placement
        gains more than ``hysteresis`` of its value otherwise or has no room so.

    Segments that fit nowhere are missing from the result. Deterministic: ties go to the names that sort first.
    """
    if not places:
        return {}
    weighing = weights or Weights()
    unit = sum(traffic.values()) or 1.0
    near = {edge: bytes / unit for edge, bytes in traffic.items()}
    neighbours: dict[Instance, list[tuple[Instance, float]]] = {}
    for (a, b), share in near.items():
        neighbours.setdefault(a, []).append((b, share))
        neighbours.setdefault(b, []).append((a, share))
    world = _World(demands, neighbours, places, weighing)
    order = sorted(demands, key=lambda d: (-d.load, -d.nbytes, d.instance))
    for demand in order:
        world.put_best(demand)
    world.improve(order)
    found = world.where
    if present:
        kept = _World(demands, neighbours, places, weighing)
        coming = []
        for demand in order:
            if present.get(demand.instance) in kept.places:
                kept.put(demand, present[demand.instance])
            else:
                coming.append(demand)
        for demand in coming:
            kept.put_best(demand)
        kept.improve(coming)
        if len(kept.where) >= len(found) and kept.feasible():
            value, old = world.value(), kept.value()
            if value - old <= hysteresis * max(abs(old), 1e-9):
                return kept.where
    return found


class _World:
    """A placement being made."""

    def __init__(
        self,
        demands: Sequence[Demand],
        neighbours: Mapping[Instance, Sequence[tuple[Instance, float]]],
        places: Sequence[Place],
        weights: Weights,
    ) -> None:
        self.places = {p.agent: p for p in sorted(places, key=lambda p: p.agent)}
        self.where: dict[Instance, str] = {}
        self._demands = {d.instance: d for d in demands}
        self._neighbours = neighbours
        self._weights = weights
        self._bytes = dict.fromkeys(self.places, 0.0)
        self._load = dict.fromkeys(self.places, 0.0)

    def put(self, demand: Demand, agent: str) -> None:
        self.where[demand.instance] = agent
        self._bytes[agent] += demand.nbytes
        self._load[agent] += demand.load

    def take(self, demand: Demand) -> str:
        agent = self.where.pop(demand.instance)
        self._bytes[agent] -= demand.nbytes
        self._load[agent] -= demand.load
        return agent

    def gain(self, demand: Demand, agent: str) -> float:
        """What putting it there is worth; minus infinity where its bytes do not fit."""
        here = self.places[agent]
        if self._bytes[agent] + demand.nbytes > here.memory_bytes:
            return float("-inf")
        value = 0.0
        for other, share in self._neighbours.get(demand.instance, ()):
            there = self.where.get(other)
            if there == agent:
                value += share * self._weights.near
            elif there is not None and here.group and self.places[there].group == here.group:
                value += share * self._weights.same_group
        before, after = self._load[agent], self._load[agent] + demand.load
        value -= self._weights.overload * (max(after - here.capacity, 0.0) - max(before - here.capacity, 0.0))
        # Among equals the emptier one, so that load spreads where nothing speaks for staying together.
        return value - 1e-3 * after / here.capacity

    def put_best(self, demand: Demand) -> None:
        scored = [(self.gain(demand, agent), agent) for agent in self.places]
        best = max(score for score, _ in scored)
        if best > float("-inf"):
            self.put(demand, min(agent for score, agent in scored if score == best))

    def improve(self, order: Sequence[Demand], rounds: int = 8) -> None:
        """Move single segments while the placement gains."""
        for _ in range(rounds):
            moved = False
            for demand in order:
                if demand.instance not in self.where:
                    self.put_best(demand)
                    moved = moved or demand.instance in self.where
                    continue
                old = self.take(demand)
                stay = self.gain(demand, old)
                scored = [(self.gain(demand, agent), agent) for agent in self.places]
                best, agent = max(scored, key=lambda pair: (pair[0], pair[1] == old))
                self.put(demand, agent if best > stay + 1e-9 else old)
                moved = moved or best > stay + 1e-9
            if not moved:
                return

    def value(self) -> float:
        """Traffic kept near minus overload."""
        total = 0.0
        for instance, agent in self.where.items():
            for other, share in self._neighbours.get(instance, ()):
                there = self.where.get(other)
                if there == agent:
                    total += share * self._weights.near / 2
                elif (
                    there is not None
                    and self.places[agent].group
                    and (self.places[there].group == self.places[agent].group)
                ):
                    total += share * self._weights.same_group / 2
        for agent, load in self._load.items():
            total -= self._weights.overload * max(load - self.places[agent].capacity, 0.0)
        return total

    def feasible(self) -> bool:
        """Whether everything fits."""
        return all(self._bytes[a] <= p.memory_bytes for a, p in self.places.items())


@dataclass(frozen=True)
class Standing:
    """How a segment fares on all agents that have it."""

    instance: Instance
    nbytes: float
    agents: tuple[str, ...]
    utilisation: float
    """Work asked for per second, divided by what its replicas together can do (rho)."""
    wait_p95_s: float = 0.0
    pinned: bool = False


@dataclass(frozen=True)
class Change:
    """One replica more, or one less."""

    instance: Instance
    agent: str
    add: bool


def replicas(
    standings: Sequence[Standing],
    free_bytes: Mapping[str, float],
    *,
    wait_limit_s: float = float("inf"),
    high: float = 0.85,
    low: float = 0.3,
    near: Mapping[tuple[Instance, str], float] | None = None,
) -> tuple[Change, ...]:
    """Where one more replica is worth its memory, and where one less suffices.

    Parameters
    ----------
    free_bytes : per agent.
    wait_limit_s : queueing time at the 95th percentile from which a segment is too slow.
    near : gain of locality per segment and agent; the largest wins, then the most free memory.

    A segment is replicated alone, not with its model: that is what makes it cheap. The last replica always stays.
    """
    room = dict(free_bytes)
    changes: list[Change] = []
    for s in sorted(standings, key=lambda s: (-s.utilisation, -s.wait_p95_s, s.instance)):
        if s.utilisation > high or s.wait_p95_s > wait_limit_s:
            fitting = [a for a, free in room.items() if a not in s.agents and free >= s.nbytes]
            if fitting:
                best = min(fitting, key=lambda a: (-(near or {}).get((s.instance, a), 0.0), -room[a], a))
                room[best] -= s.nbytes
                changes.append(Change(s.instance, best, True))
        elif s.utilisation < low and len(s.agents) > 1 and not s.pinned and _spare(s, high):
            worst = min(s.agents, key=lambda a: ((near or {}).get((s.instance, a), 0.0), room.get(a, 0.0), a))
            changes.append(Change(s.instance, worst, False))
    return tuple(changes)


def _spare(standing: Standing, high: float) -> bool:
    """Whether the other replicas could carry one's share without calling for it again."""
    count = len(standing.agents)
    return standing.utilisation * count / (count - 1) < high


@dataclass(frozen=True)
class Resident:
    """A segment, or a single weight, in memory."""

    instance: Instance
    nbytes: float
    rate: float
    """Requests per second that use it."""
    reload_s: float
    pinned: bool = False
    needed_by: frozenset[str] = frozenset()
    """Models in memory that cannot run without it; empty where nothing is known of models."""

    @property
    def density(self) -> float:
        """What a byte of it is worth: expected seconds of reloading saved per second, per byte."""
        return self.rate * self.reload_s / self.nbytes if self.nbytes else float("inf")


def evictions(
    residents: Sequence[Resident], need: float, busy: Collection[Instance] = ()
) -> tuple[Instance, ...] | None:
    """What to drop so that ``need`` bytes become free: least value per byte first, never pinned or busy ones.

    A model that loses anything cannot run, so models are taken one after the other, each by the value and the bytes of
    all that only it needs. What several need stays until all of them but one have lost something, unless nothing else
    is left. None where even dropping all that may go is not enough; then nothing should be dropped.
    """
    unwilling = frozenset(busy)
    order = sorted(residents, key=lambda r: (r.density, -r.nbytes, r.instance))
    left = [r for r in order if not r.pinned and r.instance not in unwilling]
    chosen: list[Resident] = []
    leaving: set[str] = set()
    freed = 0.0
    while left and freed < need:
        idle, alone, shared = _by_need(left, leaving)
        worth, model = min(((_density(own), name) for name, own in alone.items()), default=(float("inf"), ""))
        turn = [r for r in idle if r.density <= worth]
        if model:
            turn += alone[model]
        elif not turn:
            turn = shared[:1]
        taken: set[int] = set()
        for resident in turn:
            if freed >= need:
                break
            taken.add(id(resident))
            chosen.append(resident)
            freed += resident.nbytes
            leaving |= resident.needed_by
        left = [r for r in left if id(r) not in taken]
    if freed < need:
        return None
    # What came early and small may be spared by what came later and large.
    for resident in sorted(chosen, key=lambda r: (-r.density, r.instance)):
        if freed - resident.nbytes >= need:
            chosen.remove(resident)
            freed -= resident.nbytes
    return tuple(r.instance for r in chosen)


def _by_need(
    residents: Sequence[Resident], leaving: set[str]
) -> tuple[list[Resident], dict[str, list[Resident]], list[Resident]]:
    """What no model needs that stays, what only one does, by its name, and the rest; each in the order given."""
    idle: list[Resident] = []
    alone: dict[str, list[Resident]] = {}
    shared: list[Resident] = []
    for resident in residents:
        needing = resident.needed_by - leaving
        if len(needing) > 1:
            shared.append(resident)
        elif needing:
            alone.setdefault(next(iter(needing)), []).append(resident)
        else:
            idle.append(resident)
    return idle, alone, shared


def _density(residents: Sequence[Resident]) -> float:
    """The density of several together."""
    nbytes = sum(r.nbytes for r in residents)
    return sum(r.rate * r.reload_s for r in residents) / nbytes if nbytes else float("inf")


def gone(last_seen: Mapping[str, float], now: float, period_s: float, misses: int = 3) -> frozenset[str]:
    """Agents that have missed ``misses`` heartbeats of ``period_s``."""
    return frozenset(agent for agent, seen in last_seen.items() if now - seen > misses * period_s)
