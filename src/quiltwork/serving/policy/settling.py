"""Which chains share an agent: so that the steps of its decoders are short, for a step runs every segment in use.

A decoding step of a few sequences costs about what one costs: it reads the weights. So an agent's step takes the sum
over the *distinct* segments in use on it, and every sequence there waits for that sum once per token. Chains that share
segments belong together; strangers belong apart, as long as there are agents enough. Memory counts too: what decodes
together has to keep its keys and values there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, expm1, pow

from quiltwork.serving.policy.cost import SegmentProfile
from quiltwork.serving.policy.placement import Place
from quiltwork.serving.policy.queueing import Instance


@dataclass(frozen=True)
class Stream:
    """Requests for one chain, as expected."""

    name: str
    chain: tuple[Instance, ...]
    rate: float
    """Requests per second."""


@dataclass(frozen=True)
class Lengths:
    """Of a mean request, and how its prompt is taken in."""

    prompt_tokens: float
    output_tokens: float
    chunk: float = 256
    """Rows of prompts in a step."""

    @property
    def context(self) -> float:
        """Tokens that a decoding row attends over."""
        return self.prompt_tokens + self.output_tokens / 2


def sequences(
    rates: Mapping[tuple[Instance, ...], float], profiles: Mapping[Instance, SegmentProfile], lengths: Lengths
) -> dict[tuple[Instance, ...], float] | None:
    """Sequences under way on one agent by chain, where ``rates`` requests per second come for each; None for no end.

    The step that all of them wait for once per token, and how many they are (Little's law), settle each other: a
    segment is in use while any of its sequences is there, ``1 - exp(-n)`` of the time for ``n`` on average.
    """
    shared: dict[Instance, float] = {}
    prompts = 0.0
    for chain, rate in rates.items():
        for instance in chain:
            shared[instance] = shared.get(instance, 0.0) + rate
            prompts += rate * prompt_seconds(profiles[instance], lengths)
    if prompts >= 1.0:
        return None
    step = 0.0
    for _ in range(_ROUNDS):
        stay, after = lengths.output_tokens * step / (1 - prompts), 0.0
        for instance, rate in shared.items():
            n, profile = rate * stay, profiles[instance]
            one = profile.rows.at(1)
            used = -expm1(-n) if step else 1.0
            after += used * one + max(profile.rows.at(max(n, 1.0)) - one, 0.0) + n * lengths.context * profile.context_s
        if after > _ENDLESS_S:
            return None
        done = abs(after - step) <= 0.01 * after
        step = after
        if done:
            break
    stay = lengths.output_tokens * step / (1 - prompts)
    return {
        chain: rate * (stay + sum(prompt_seconds(profiles[i], lengths) for i in chain)) for chain, rate in rates.items()
    }


_ROUNDS = 12
_ENDLESS_S = 2.0
"""A step that takes longer keeps nobody company: the agent has more to do than it can."""


def prompt_seconds(profile: SegmentProfile, lengths: Lengths) -> float:
    """What a prompt adds to the steps it rides in, beyond what decoding rows alone would take."""
    parts = max(lengths.prompt_tokens / lengths.chunk, 1.0)
    rows = min(lengths.chunk, lengths.prompt_tokens)
    extra = max(profile.rows.at(rows) - profile.rows.at(1), 0.0) * parts
    return extra + profile.batch_s(0, prompt_context=lengths.prompt_tokens**2 / 2)


def settle(
    streams: Sequence[Stream],
    profiles: Mapping[Instance, SegmentProfile],
    places: Sequence[Place],
    lengths: Lengths,
    *,
    kv_share: float = 0.2,
    spare: float = 1.5,
    power: float = 1.0,
    present: Mapping[str, Collection[Instance]] | None = None,
    hysteresis: float = 0.1,
) -> dict[str, tuple[Instance, ...]]:
    """Segments by agent such that requests take as little time as possible.

    Every stream is dealt out in parts of about a sequence, each to the agent where it adds least; then parts, and all
    parts of a stream on one agent together, are moved while that helps. An agent holds what its parts run through.

    Parameters
    ----------
    kv_share : of an agent's memory, what is left to keys and values at the least.
    spare : times the expected keys and values that have to fit.
    power : of the time that a request takes, which is summed over all requests: 1 for the mean; above it the slowest
        count more.
    present : what stands where now; chains that run on one agent there stay unless all together gain more than
        ``hysteresis`` of what they cost so. Others are added where they add least.

    Streams that fit nowhere are left out. Deterministic: ties go to the names that sort first.
    """
    memory = {p.agent: p.memory_bytes for p in places}
    world = _Settling(profiles, memory, lengths, kv_share, spare, power)
    world.deal(streams)
    if present and any(present.values()):
        kept = _Settling(profiles, memory, lengths, kv_share, spare, power, present)
        kept.deal(streams)
        if kept.left_out <= world.left_out and world.cost >= kept.cost * (1 - hysteresis):
            return kept.held()
    return world.held()


@dataclass(frozen=True)
class _Part:
    """A share of a stream that goes one way."""

    chain: tuple[Instance, ...]
    index: int
    rate: float


class _Settling:
    """A dealing out in the making."""

    def __init__(
        self,
        profiles: Mapping[Instance, SegmentProfile],
        memory: Mapping[str, float],
        lengths: Lengths,
        kv_share: float,
        spare: float,
        power: float,
        present: Mapping[str, Collection[Instance]] | None = None,
    ) -> None:
        self._profiles, self._lengths = profiles, lengths
        self._kv_share, self._spare, self._power = kv_share, spare, power
        self._memory = dict(sorted(memory.items()))
        self._present = {agent: frozenset((present or {}).get(agent, ())) for agent in self._memory}
        """Chains that run on one agent there run nowhere else."""
        self._rates: dict[str, dict[tuple[Instance, ...], float]] = {a: {} for a in self._memory}
        self._cost = dict.fromkeys(self._memory, 0.0)
        self._where: dict[_Part, str] = {}
        self.left_out = 0
        """Parts that fit nowhere."""
        self._known: dict[tuple[float, tuple[tuple[tuple[Instance, ...], float], ...]], float] = {}

    def deal(self, streams: Sequence[Stream]) -> None:
        """Deal all streams out, and then better them."""
        parts = self.parts(streams)
        for part in parts:
            self.put(part, self.best(part))
        self.improve(parts)
        self.left_out = len(parts) - len(self._where)

    @property
    def cost(self) -> float:
        """Of all agents."""
        return sum(self._cost.values())

    def parts(self, streams: Sequence[Stream]) -> list[_Part]:
        """A part of every chain first, heaviest chains first; no more parts in all than make a difference."""
        alike: dict[tuple[Instance, ...], float] = {}
        for stream in sorted(streams, key=lambda s: s.name):
            key = tuple(dict.fromkeys(stream.chain))
            alike[key] = alike.get(key, 0.0) + max(stream.rate, _SELDOM)
        alone = {
            key: rate * self._lengths.output_tokens * sum(self._profiles[i].rows.at(1) for i in key)
            for key, rate in alike.items()
        }
        size = max(1.0, sum(alone.values()) / min(_PARTS_PER_AGENT * len(self._memory), _MOST_PARTS))
        made = []
        for key in sorted(alike, key=lambda k: (-alone[k], k)):
            count = max(ceil(alone[key] / size), 1)
            made += [_Part(key, i, alike[key] / count) for i in range(count)]
        return sorted(made, key=lambda part: part.index > 0)

    def best(self, part: _Part) -> str | None:
        """Where a part adds least; None where it fits nowhere."""
        found = [(self._added(agent, part.chain, part.rate), agent) for agent in self._memory]
        cost, agent = min(found)
        return agent if cost < float("inf") else None

    def put(self, part: _Part, agent: str | None) -> None:
        if agent is None:
            return
        self._change(agent, part.chain, part.rate)
        self._where[part] = agent

    def improve(self, parts: Sequence[_Part], rounds: int = 6) -> None:
        """Move parts one by one, and those of a chain on one agent together, until nothing is gained."""
        for _ in range(rounds):
            moved = False
            for part in parts:
                if part not in self._where:
                    self.put(part, self.best(part))
                    moved = moved or part in self._where
                else:
                    moved = self._move([part]) or moved
            groups: dict[tuple[str, tuple[Instance, ...]], list[_Part]] = {}
            for part, agent in self._where.items():
                groups.setdefault((agent, part.chain), []).append(part)
            for _, group in sorted(groups.items()):
                if len(group) > 1:
                    moved = self._move(group) or moved
            if not moved:
                return

    def held(self) -> dict[str, tuple[Instance, ...]]:
        """What every agent holds; where a chain has stayed, also those of its replicas that no part came to."""
        found = {a: {i for chain in rates for i in chain} for a, rates in self._rates.items()}
        for chain in {part.chain for part in self._where}:
            for agent, here in self._present.items():
                if here.issuperset(chain) and self._fits(agent, found[agent].union(chain)):
                    found[agent].update(chain)
        return {a: tuple(sorted(instances)) for a, instances in found.items()}

    def _move(self, group: Sequence[_Part]) -> bool:
        chain, rate = group[0].chain, sum(p.rate for p in group)
        old = self._where[group[0]]
        before = self._cost[old]
        self._change(old, chain, -rate)
        stay = before - self._cost[old]
        cost, agent = min((self._added(a, chain, rate), a) for a in self._memory if a != old or len(self._memory) == 1)
        if cost >= stay * (1 - 1e-3):
            agent = old
        self._change(agent, chain, rate)
        for part in group:
            self._where[part] = agent
        return agent != old

    def _added(self, agent: str, chain: tuple[Instance, ...], rate: float) -> float:
        if not self._present[agent].issuperset(chain) and self._settled(chain):
            return float("inf")
        rates = dict(self._rates[agent])
        rates[chain] = rates.get(chain, 0.0) + rate
        return self._costs(agent, rates) - self._cost[agent]

    def _weights(self, instances: Collection[Instance]) -> float:
        return sum(self._profiles[i].weight_bytes for i in instances)

    def _fits(self, agent: str, instances: Collection[Instance]) -> bool:
        return self._weights(instances) <= self._memory[agent] * (1 - self._kv_share)

    def _settled(self, chain: tuple[Instance, ...]) -> bool:
        return any(here.issuperset(chain) for here in self._present.values())

    def _change(self, agent: str, chain: tuple[Instance, ...], rate: float) -> None:
        rates = self._rates[agent]
        left = rates.get(chain, 0.0) + rate
        if left > 1e-12:
            rates[chain] = left
        else:
            del rates[chain]
        self._cost[agent] = self._costs(agent, rates)

    def _costs(self, agent: str, rates: Mapping[tuple[Instance, ...], float]) -> float:
        """Sequences under way; infinite where the agent cannot hold it."""
        if not rates:
            return 0.0
        memory = self._memory[agent]
        key = (memory, tuple(sorted((chain, round(rate, 9)) for chain, rate in rates.items())))
        if key not in self._known:
            self._known[key] = self._cost_of(memory, rates)
        return self._known[key]

    def _cost_of(self, memory: float, rates: Mapping[tuple[Instance, ...], float]) -> float:
        weights = self._weights({i for chain in rates for i in chain})
        if weights > memory * (1 - self._kv_share):
            return float("inf")
        under_way = sequences(rates, self._profiles, self._lengths)
        if under_way is None:
            # More than in proportion, so that even what is too much is dealt out evenly.
            return pow(_OVERLOAD * sum(rates.values()), 1 + self._power)
        kv = sum(n * self._lengths.context * self._profiles[i].kv_bytes for c, n in under_way.items() for i in c)
        short = max(kv * self._spare / (memory - weights) - 1.0, 0.0)
        return sum(rates[c] * pow(n / rates[c], self._power) for c, n in under_way.items()) * (1.0 + _SHORT * short)


_PARTS_PER_AGENT = 10
_MOST_PARTS = 360
"""And a part of every chain besides: looking for places takes time with the parts times the agents."""
_SELDOM = 1e-6
"""Requests per second of what nobody is expected to ask for: it gets a home too."""
_SHORT = 5.0
"""How much dearer a sequence is per share of its keys and values that has no room."""
_OVERLOAD = 1e3
"""Per request and second beyond what an agent can do, in sequences: dearer than anything that it can."""
