"""Several tenants at one engine, on the engine's own clock: seconds of processor time that its steps took.

Engines to compare take turns step by step, so that what drifts on the machine meets all of them alike, and what others
do on the machine counts for none. A request arrives when its engine's clock has come to its time, whether or not
earlier ones are answered; while nothing is to be done the clock jumps to the next arrival.

Built in a process of its own (``work.side``).
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quiltwork.core.errors import QuiltworkError
from quiltwork.core.names import ModelRef
from quiltwork.serving import Engine, EngineConfig, SamplerState, SamplingOptions
from quiltwork.serving import Sequence as TokenSequence
from quiltwork.zoo import Zoo
from work.asked import GENERATED_PRICE, PROMPT_PRICE, Asked, Served
from work.replay import Request


@dataclass
class _Run:
    """One engine on its way through its requests."""

    engine: Engine
    coming: deque[Asked]
    until: frozenset[str]
    """Ids of the requests that end the run once they are answered."""
    ids: dict[int, str] = field(default_factory=dict)
    asked: dict[str, Asked] = field(default_factory=dict)
    answers: dict[str, list[int]] = field(default_factory=dict)
    latency: dict[str, float] = field(default_factory=dict)
    now: float = 0.0
    idle: float = 0.0
    steps: int = 0
    waiting: dict[str, int] = field(default_factory=dict)
    seats: int = 0
    left: set[str] = field(default_factory=set)
    before: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.left, self.before = set(self.until), _prices(self.engine)

    def step(self, number: int) -> int:
        """Take in what has arrived and do one step; the next free sequence number."""
        if not self.engine.has_work and self.coming and self.coming[0].request.arrival > self.now:
            self.idle += self.coming[0].request.arrival - self.now
            self.now = self.coming[0].request.arrival
        began = time.process_time()
        while self.coming and self.coming[0].request.arrival <= self.now:
            asked = self.coming.popleft()
            request = asked.request
            sampler = SamplerState(SamplingOptions(temperature=0.0), request.prompt)
            self.engine.add(
                TokenSequence(number, ModelRef(request.app), request.prompt, sampler, request.new_tokens,
                              tenant=asked.tenant)
            )  # fmt: skip
            self.ids[number], self.asked[request.id] = request.id, asked
            number += 1
        emissions = self.engine.step()
        self.now += time.process_time() - began
        for emission in emissions:
            name = self.ids[emission.sequence_id]
            if emission.token is not None:
                self.answers.setdefault(name, []).append(emission.token.token)
            if emission.finish_reason is not None:
                self.latency[name] = self.now - self.asked[name].request.arrival
                self.left.discard(name)
        stats = self.engine.stats()
        self.steps += 1
        self.seats += stats.running
        for tenant, standing in stats.tenants.items():
            self.waiting[tenant] = self.waiting.get(tenant, 0) + standing.waiting
        return number

    def end(self) -> Served:
        """Drop what is unfinished and tell how it went."""
        for number, name in self.ids.items():
            if name not in self.latency:
                self.engine.cancel(number)
                self.latency[name] = self.now - self.asked[name].request.arrival
                self.answers.pop(name, None)
        late = [a for a in self.coming if a.request.id in self.left and a.request.arrival < self.now]
        for asked in late:
            self.latency[asked.request.id] = self.now - asked.request.arrival
        tenants = {asked.tenant for asked in self.asked.values()}
        served = {tenant: total - self.before.get(tenant, 0.0) for tenant, total in _prices(self.engine).items()}
        return Served(
            dict(self.latency),
            dict(self.answers),
            self.now,
            1 - self.idle / self.now,
            {tenant: self.waiting.get(tenant, 0) / self.steps for tenant in sorted(tenants)},
            self.seats / self.steps,
            {tenant: served[tenant] for tenant in sorted(tenants)},
        )


def _prices(engine: Engine) -> dict[str, float]:
    """What was served to each tenant so far, by price."""
    return {
        tenant: PROMPT_PRICE * standing.prompt_tokens + GENERATED_PRICE * standing.generated_tokens
        for tenant, standing in engine.stats().tenants.items()
    }


class Crowds:
    """Engines over the same models, each with settings of its own."""

    def __init__(self, zoo: Path, models: Sequence[str], engines: Mapping[str, Mapping[str, Any]]) -> None:
        self._number = 1
        self._engines = {name: Engine(EngineConfig(**config), time.monotonic) for name, config in engines.items()}
        with Zoo(zoo) as opened:
            for engine in self._engines.values():
                for model in models:
                    engine.install(engine.prepare(opened.chain(ModelRef(model)), opened.read))
        # Else a collection of all that torch imported, 0.15 s of it, falls to whichever engine happens to start it.
        gc.collect()
        gc.freeze()

    def capacity(self, name: str, requests: Sequence[Request], tenants: int) -> float:
        """What one engine serves per second while its queue is full, by price.

        Measured from the time when as many are answered as it computes at once (until then it computes mostly prompts)
        until nobody waits to start; ``tenants`` take turns asking.
        """
        run = _Run(
            self._engines[name],
            deque(Asked(f"full/{i % tenants}", request) for i, request in enumerate(requests)),
            frozenset(),
        )
        began: tuple[float, float] | None = None
        while not run.steps or run.engine.stats().waiting:
            self._number = run.step(self._number)
            if began is None and len(run.latency) >= run.engine.config.max_num_seqs:
                began = sum(_prices(run.engine).values()), run.now
        if began is None:
            raise QuiltworkError("too few requests to fill it", where="capacity")
        rate = (sum(_prices(run.engine).values()) - began[0]) / (run.now - began[1])
        run.end()
        return rate

    def replay(
        self, arms: Mapping[str, tuple[str, Sequence[Asked]]], until: frozenset[str], patient: Sequence[str]
    ) -> dict[str, Served]:
        """Serve timed requests on several engines, which take turns.

        arms : name -> engine and its requests. until : ids that end an arm once they are all answered. patient : arms
        that end the whole when they have ended; others may be cut off.
        """
        runs = {
            name: _Run(self._engines[engine], deque(sorted(asked, key=lambda a: a.request.arrival)), until)
            for name, (engine, asked) in arms.items()
        }
        order = deque(runs.values())
        while any(runs[name].left for name in patient):
            for run in order:
                if run.left:
                    self._number = run.step(self._number)
            order.rotate(1)
        return {name: run.end() for name, run in runs.items()}
