"""What one sequence went through, kept only where it was asked for: hops, batches, keys and values, time.

Like the stamps in a passport: every place it passes adds a line, and whoever asks reads them at the end. Nothing grows
with the number of tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Json
from quiltwork.layers.protocol import PAGE_TOKENS
from quiltwork.zoo.segments import segment_id

if TYPE_CHECKING:
    from quiltwork.serving.agents.message import Hop as AgentHop
    from quiltwork.serving.kv import PageRun
    from quiltwork.serving.route import Segment
    from quiltwork.zoo.types import Part

Stage = Literal["queue", "prefill", "decode", "sampling", "delivery"]
"""Where a sequence's time goes: waiting for a place (also after a preemption); computing tokens that were known (the
prompt, and after a preemption all of them); computing the tokens it made; choosing the next one, together with the rest
of its batch; and handing it on, until the next step begins."""

Source = Literal["own", "sibling", "public"]
"""Who computed a page that was found: the same model, another model for the same tenant, or another tenant's request
under a prefix that both call public."""

_FARTHER: tuple[Source, ...] = ("own", "sibling", "public")


@dataclass
class Spread:
    """Mean and most of a number that is met again and again."""

    total: int = 0
    most: int = 0

    def add(self, value: int) -> None:
        """Meet one more."""
        self.total += value
        self.most = max(self.most, value)

    def join(self, other: Spread) -> None:
        """Meet all that another one met."""
        self.total += other.total
        self.most = max(self.most, other.most)

    def to_json(self, count: int) -> dict[str, Json]:
        """Over ``count`` of them."""
        return {"mean": round(self.total / count, 3) if count else 0.0, "max": self.most}


@dataclass
class Batches:
    """The batches a sequence rode in."""

    count: int = 0
    rows: Spread = field(default_factory=Spread)
    sequences: Spread = field(default_factory=Spread)
    models: Spread = field(default_factory=Spread)

    def add(self, rows: int, sequences: int, models: int) -> None:
        """One more batch, of all its sequences' rows."""
        self.count += 1
        self.rows.add(rows)
        self.sequences.add(sequences)
        self.models.add(models)

    def join(self, other: Batches) -> None:
        """All batches of another place as well."""
        self.count += other.count
        self.rows.join(other.rows)
        self.sequences.join(other.sequences)
        self.models.join(other.models)

    def to_json(self) -> dict[str, Json]:
        """As JSON."""
        spreads = {"rows": self.rows, "sequences": self.sequences, "models": self.models}
        return {"count": self.count, **{name: spread.to_json(self.count) for name, spread in spreads.items()}}


@dataclass
class Hop:
    """One place on its way, and the batches it rode in there: a segment, or several at once at an agent."""

    segments: tuple[str, ...]
    """The segments' short ids; the same in the batch log and in what explains a model."""
    start: int
    """Index of its first link in the chain."""
    first: str
    last: str
    """The names of its first and last part."""
    blocks: int
    batches: Batches = field(default_factory=Batches)
    agent: str | None = None
    """Who ran it, where several agents serve."""
    kv: Counter[str] = field(default_factory=Counter)
    """There: how often it got at its keys and values in which way."""
    waited: float = 0.0
    ran: float = 0.0
    """There: seconds in the agent's queue, and in batches that were run, by the agent's clock."""

    def to_json(self) -> dict[str, Json]:
        """As JSON."""
        told: dict[str, Json] = {
            "segments": list(self.segments),
            "first": self.first,
            "last": self.last,
            "blocks": self.blocks,
            "batches": self.batches.to_json(),
        }
        if self.agent is None:
            return told
        return {"agent": self.agent, **told, "kv": dict(self.kv), "seconds": {"queue": self.waited, "run": self.ran}}


@dataclass
class KVTrace:
    """What was decided about its pages (PAGE_TOKENS tokens of the whole chain each)."""

    found: dict[Source, int] = field(default_factory=lambda: dict.fromkeys(_FARTHER, 0))
    """Pages taken whole from the cache, by who had computed them; by the farthest where its segments differ."""
    partly_found: dict[Source, int] = field(default_factory=lambda: dict.fromkeys(_FARTHER, 0))
    """Pages whose lower segments were in the cache; the rest was computed from what had left those."""
    computed: int = 0
    """Pages computed wholly or partly, each time they were."""
    recomputed: int = 0
    """Of those: pages that had been computed before a preemption took them."""
    preemptions: int = 0
    waits: int = 0
    """Steps it let pass because another sequence was computing the very page it needed."""

    def to_json(self) -> dict[str, Json]:
        """As JSON."""
        return {
            "page_tokens": PAGE_TOKENS,
            "found": dict(self.found),
            "partly_found": dict(self.partly_found),
            "computed": self.computed,
            "recomputed": self.recomputed,
            "preemptions": self.preemptions,
            "waits": self.waits,
        }


@dataclass(eq=False)
class Trace:
    """The record of one sequence. Written by whoever carries it on; read once it has ended.

    clock : seconds; the engine's own.
    """

    clock: Callable[[], float]
    stage: Stage | None = "queue"
    """None once it has ended."""
    seconds: dict[Stage, float] = field(default_factory=dict)
    hops: dict[Hashable, Hop] = field(default_factory=dict)
    """By place; a sequence that is preempted may come back to other segments."""
    kv: KVTrace = field(default_factory=KVTrace)
    resent: int = 0
    """How often agents were sent the same tokens again, because one of them or its state was lost."""

    def __post_init__(self) -> None:
        self._since = self.clock()
        self._found_now = 0
        self._found_again = 0
        self._reached = 0

    def enter(self, stage: Stage | None) -> None:
        """From now on its time counts as ``stage``'s; None ends it. Nothing counts after the end."""
        if self.stage is None:
            return
        now = self.clock()
        self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + now - self._since
        self.stage, self._since = stage, now

    def rode(self, segment: Segment, *, rows: int, sequences: int, models: int) -> None:
        """It was in a batch."""
        key = (segment.start, segment.key)
        hop = self.hops.get(key)
        if hop is None:
            names = segment.links[0].name, segment.links[-1].name
            hop = self.hops[key] = Hop((segment_id(segment.key),), segment.start, *names, len(segment.links))
        hop.batches.add(rows, sequences, models)

    def visited(self, there: AgentHop, keys: Sequence[Sequence[str]], links: Sequence[Part]) -> None:
        """It was in a batch of an agent.

        keys : the block ids of each segment of its model. links : its model's chain.
        """
        place = (there.agent, *(tuple(run) for run in keys[slice(*there.segments)]))
        hop = self.hops.get(place)
        if hop is None:
            first, end = there.segments
            start, stop = (sum(map(len, keys[:at])) for at in (first, end))
            ids = tuple(segment_id(run) for run in keys[first:end])
            names = links[start].name, links[stop - 1].name
            hop = self.hops[place] = Hop(ids, start, *names, stop - start, agent=there.agent)
        hop.batches.add(there.batch_rows, there.batch_sequences, there.batch_models)
        hop.kv[there.kv] += 1
        hop.waited += there.waited_s
        hop.ran += there.ran_s

    def found(self, page: int, runs: Iterable[PageRun | None], model: ModelRef, tenant: str, *, whole: bool) -> None:
        """A page was in the cache, or its lower segments were."""
        kinds = [_source(run, model, tenant) for run in runs if run is not None]
        farthest: Source = max(kinds, key=_FARTHER.index) if kinds else "own"
        if not whole:
            self.kv.partly_found[farthest] += 1
            return
        self.kv.found[farthest] += 1
        self._found_now += 1
        self._found_again += page < self._reached

    def let_go(self, pages: int) -> None:
        """It gives back the pages it holds, at its end or when it is preempted."""
        self.kv.computed += pages - self._found_now
        self.kv.recomputed += min(pages, self._reached) - self._found_again
        self._reached = max(self._reached, pages)
        self._found_now = self._found_again = 0

    def preempt(self) -> None:
        """It has given its pages back and waits for a place again."""
        self.kv.preemptions += 1
        self.enter("queue")

    def to_json(self) -> dict[str, Json]:
        """What a reply says of it. The seconds of all stages add up to ``total``."""
        hops = sorted(self.hops.values(), key=lambda hop: hop.start)
        batches = Batches()
        for hop in hops:
            batches.join(hop.batches)
        stages: tuple[Stage, ...] = ("queue", "prefill", "decode", "sampling", "delivery")
        seconds = {stage: self.seconds.get(stage, 0.0) for stage in stages}
        return {
            "hops": [hop.to_json() for hop in hops],
            "batches": batches.to_json(),
            "kv": self._kv_at_agents(hops) if any(hop.agent is not None for hop in hops) else self.kv.to_json(),
            "seconds": {**seconds, "total": sum(seconds.values())},
        }

    def _kv_at_agents(self, hops: Sequence[Hop]) -> dict[str, Json]:
        """Agents tell how work got at its keys and values; which pages those were stays theirs."""
        choices: Counter[str] = Counter()
        for hop in hops:
            choices.update(hop.kv)
        return {"choices": dict(choices), "resent": self.resent, "preemptions": self.kv.preemptions}


def _source(run: PageRun, model: ModelRef, tenant: str) -> Source:
    """Who computed a run of pages, seen from a model that a tenant asks."""
    if run.maker is None or run.maker == (model, tenant):
        return "own"
    return "sibling" if run.maker[1] == tenant else "public"
