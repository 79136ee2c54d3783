"""One small world twice: paced agents in processes, and the simulator with the same requests, tables, links, policies.

What the simulator cannot know from tables (what the front and the agents do besides their batches) are four constants.
``fit`` finds them from runs that are made for that alone.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from quiltwork.core.names import ModelRef
from quiltwork.layers.protocol import PAGE_TOKENS
from quiltwork.serving.agents.serve import BEAT_S
from quiltwork.serving.agents.settings import AgentSettings
from quiltwork.serving.policy.cost import Link, SegmentProfile
from quiltwork.serving.policy.queueing import Instance, QueueLimits
from quiltwork.serving.profiles.measured import Measured
from quiltwork.serving.simulate import App, Arrival, Cluster, Device, Outcome, Piece, Settings, simulate
from quiltwork.serving.simulate.world import Front
from quiltwork.zoo import Zoo
from quiltwork.zoo.segments import segments
from work.paced import Asked, PacedRun

CHUNK = 64
LIMITS = QueueLimits(rows=96, sequences=8)
AGENTS = ("agent0", "agent1", "agent2")
LINK = Link(2e-4, 10e9 / 8)
"""Between any two places."""
PLENTY = 1e12
"""Bytes: memory is not what is compared."""


@dataclass(frozen=True)
class Constants:
    """What places do besides batches, in seconds."""

    token_s: float = 5e-4
    """The front, for each piece of work that it sends."""
    step_s: float = 5e-4
    """An agent, for each step."""
    piece_s: float = 2e-4
    """An agent, for each request in a step."""
    letter_s: float = 2e-4
    """From a letter's arrival until somebody acts on it."""


@dataclass(frozen=True)
class Policy:
    """What is decided differently from the defaults; both sides have the same switches."""

    kv: str = "best"
    first_come_first_served: bool = False

    @property
    def limits(self) -> QueueLimits:
        """Work that is as urgent as any other from its arrival on is served in order of arrival."""
        return replace(LIMITS, max_wait_s=0.0) if self.first_come_first_served else LIMITS

    def live(self) -> AgentSettings:
        """For the agents in processes."""
        links = {(a, b): LINK for a in ("front", *AGENTS) for b in ("front", *AGENTS) if a != b}
        return AgentSettings(limits=self.limits, kv_policy=self.kv, links=links, rebalance_s=0.0)

    def simulated(self, constants: Constants) -> Settings:
        """For the simulator."""
        link = replace(LINK, latency_s=LINK.latency_s + constants.letter_s)
        front = Front(constants.token_s, BEAT_S, AgentSettings().horizon, link)
        return Settings(
            limits=self.limits, prefill_chunk=CHUNK, page_tokens=PAGE_TOKENS, hop_s=0.0, attached_share=0.0,
            step_s=constants.step_s, piece_s=constants.piece_s, front=front, kv=self.kv,
            hysteresis=AgentSettings().hysteresis, replicate=False, swap=False, reserve_share=0.0, kv_share=0.0,
        )  # fmt: skip


@dataclass(frozen=True)
class World:
    """Models, the tables of their segments, and who holds them.

    routes : by model. holders : by model, for each segment, the agents that have it.
    """

    routes: Mapping[str, tuple[Piece, ...]]
    holders: Mapping[str, tuple[tuple[str, ...], ...]]

    @property
    def profiles(self) -> dict[Instance, SegmentProfile]:
        """By segment."""
        return {piece.instance: piece.profile for route in self.routes.values() for piece in route}

    def simulate(self, requests: Sequence[Asked], policy: Policy, constants: Constants) -> Outcome:
        """The requests under virtual time."""
        placed: dict[str, list[Instance]] = {name: [] for name in AGENTS}
        for model, route in self.routes.items():
            for piece, names in zip(route, self.holders[model], strict=True):
                for name in names:
                    if piece.instance not in placed[name]:
                        placed[name].append(piece.instance)
        link = replace(LINK, latency_s=LINK.latency_s + constants.letter_s)
        cluster = Cluster(tuple(Device(name, name, PLENTY) for name in AGENTS), Link(), link)
        apps = [App(name, route) for name, route in self.routes.items()]
        arrivals = [Arrival(i, a.model, a.at, len(a.prompt), a.new_tokens) for i, a in enumerate(requests)]
        return simulate(cluster, apps, arrivals, policy.simulated(constants), placed)


def world_of(zoo: Path, models: Sequence[str], measured: Measured) -> World:
    """Base, a model with its own top, and one that shares nothing, on three agents.

    Two agents have the base; the segment that it shares with the second model serves that too, whose top is on the
    third agent, beside the third model.
    """
    base, top, full = models
    with Zoo(zoo) as opened:
        chains = {name: opened.chain(ModelRef(name)).links for name in models}
    cuts = segments(chains)
    routes = {}
    for name in models:
        parts = [(run.start, chains[name][run.start : run.stop]) for run in cuts[name]]
        routes[name] = tuple(
            Piece(tuple(p.block.id for p in links), at, measured.segment(links)) for at, links in parts
        )
    replicas, third = AGENTS[:2], AGENTS[2:]
    shared = {piece.instance for piece in routes[base]}
    return World(
        routes,
        {
            base: tuple(replicas for _ in routes[base]),
            top: tuple(replicas if piece.instance in shared else third for piece in routes[top]),
            full: tuple(third for _ in routes[full]),
        },
    )


# --- requests -----------------------------------------------------------------------------------------------------

SHARES = (0.4, 0.3, 0.3)
PROMPT, ANSWER = (16, 160), (8, 40)


def poisson(models: Sequence[str], rate: float, seconds: float, vocab: int, seed: str) -> list[Asked]:
    """Requests at random moments, for all models by their shares, of random lengths."""
    rng = random.Random(seed)
    found: list[Asked] = []
    at = rng.expovariate(rate)
    while at < seconds:
        model = rng.choices(models, SHARES)[0]
        found.append(_asked(rng, at, model, rng.randint(*PROMPT), rng.randint(*ANSWER), vocab))
        at += rng.expovariate(rate)
    return found


def bursts(
    models: Sequence[str], sizes: Sequence[int], vocab: int, seed: str, *, prompt: int = 40, answer: int = 20
) -> list[list[Asked]]:
    """For every model and size so many requests at one moment, and so many for all models in turn."""
    rng = random.Random(seed)
    mixes = [*([model] for model in models), list(models)]
    return [
        [_asked(rng, 0.0, mix[i % len(mix)], prompt, answer, vocab) for i in range(size * len(mix))]
        for mix in mixes
        for size in sizes
    ]


def _asked(rng: random.Random, at: float, model: str, prompt: int, answer: int, vocab: int) -> Asked:
    return Asked(at, model, tuple(rng.randrange(vocab) for _ in range(prompt)), answer)


# --- what is compared ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """Of one run: latencies in seconds, requests per second from the first arrival to the last answer."""

    p50: float
    p95: float
    throughput: float

    def errors(self, real: Figures) -> dict[str, float]:
        """``|sim - real| / real`` by figure."""
        ours, theirs = asdict(self), asdict(real)
        return {name: abs(ours[name] - theirs[name]) / theirs[name] for name in ours}


def of_real(run: PacedRun) -> Figures:
    """Of a run of agents."""
    latencies = [one.latency for one in run.answered]
    seconds = max(one.end for one in run.answered) - run.answered[0].asked.at
    return Figures(*(float(np.quantile(latencies, q)) for q in (0.5, 0.95)), len(latencies) / seconds)


def of_simulated(outcome: Outcome) -> Figures:
    """Of a simulated run."""
    return Figures(outcome.latency(0.5), outcome.latency(0.95), outcome.throughput)


def simulated(
    world: World, requests: Sequence[Asked], policy: Policy, constants: Constants, *, runs: int, seed: str
) -> list[Figures]:
    """Of several simulated runs whose requests come up to JITTER_S later than asked.

    Who rides with whom hangs on less than a millisecond. Real runs never repeat to that, so that one simulated run
    would be one throw of dice beside the median of several.
    """
    rng = random.Random(seed)
    found = []
    for _ in range(runs):
        late = sorted((replace(a, at=a.at + rng.uniform(0.0, JITTER_S)) for a in requests), key=lambda a: a.at)
        found.append(of_simulated(world.simulate(late, policy, constants)))
    return found


JITTER_S = 2e-3


def median(figures: Sequence[Figures]) -> Figures:
    """Each figure's median over runs."""
    return Figures(*(statistics.median(values) for values in zip(*(asdict(f).values() for f in figures), strict=True)))


# --- the constants ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Observed:
    """A burst of the calibration and the mean latency that it had, in seconds (median over repeats)."""

    requests: tuple[Asked, ...]
    mean_s: float


def fit(
    observed: Sequence[Observed],
    simulated: Callable[[Sequence[Asked], Constants], float],
    *,
    factors: Sequence[float],
) -> tuple[Constants, float]:
    """The constants under which simulated bursts take as long as observed ones, and what is left between them.

    simulated : mean latency of a burst, in seconds. Each constant in turn is multiplied and divided by a factor while
    that helps, the coarsest factor first; what is made small is the mean of the squared logarithms of the ratios.
    Returns the root of it, too. Deterministic.
    """

    def loss(constants: Constants) -> float:
        logs = [math.log(simulated(o.requests, constants) / o.mean_s) for o in observed]
        return statistics.fmean(x * x for x in logs)

    best = Constants()
    least = loss(best)
    for factor in factors:
        improved = True
        while improved:
            improved = False
            for name, value in asdict(best).items():
                for tried in (value * factor, value / factor):
                    candidate = replace(best, **{name: tried})
                    found = loss(candidate)
                    if found < least * (1 - 1e-6):
                        best, least, improved = candidate, found, True
    return best, math.sqrt(least)
