"""A front with agents in threads, and the few words a test needs."""

from __future__ import annotations

import itertools
import time

from agent_crew import MemorySource, ThreadCrew

from quiltwork.serving.agents.front import AgentEngine
from quiltwork.serving.config import EngineConfig
from quiltwork.serving.options import SamplingOptions
from quiltwork.serving.sampling import SamplerState
from quiltwork.serving.sequence import Sequence

PROMPT = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43, 38, 32, 79, 50, 28, 84, 19, 71, 69, 39, 93]


class Fleet:
    def __init__(self, family, agents=2, kv_bytes=1 << 24, settings=None, log=None, **config):
        self.source = MemorySource(family.bench)
        self.crew = ThreadCrew(self.source, agents, kv_bytes, settings)
        self.engine = AgentEngine(EngineConfig(**config), self.crew, time.monotonic, settings, log=log)
        self.ids = itertools.count(1)

    def load(self, *twins):
        for twin in twins:
            self.source.chains[twin.chain.model.ref] = twin.chain
            self.engine.install(self.engine.prepare(twin.chain, self.source.read))

    def ask(self, twin, prompt, max_tokens=8, **fields):
        sampler = SamplerState(fields.pop("sampling", None) or SamplingOptions(temperature=0.0), prompt)
        id = next(self.ids)
        self.engine.add(Sequence(id, twin.chain.model.ref, list(prompt), sampler, max_tokens, **fields))
        return id

    def finish(self, meanwhile=lambda tokens: None):
        tokens = {}
        while self.engine.has_work:
            for emission in self.engine.step():
                assert emission.error is None, emission.error
                tokens.setdefault(emission.sequence_id, []).append(emission.token.token)
            meanwhile(tokens)
        return tokens

    def holders(self, twin):
        return self.engine.holdings.models[twin.chain.model.ref].now.plan.holders

    def spread(self, twin, *names):
        """Have a model's segments held by these agents in turn, and only by them."""
        chosen = itertools.cycle(names)
        self.engine.holdings.lay_out(twin.chain.model.ref, tuple((next(chosen),) for _ in self.holders(twin)))

    def hold(self, twin, *names):
        """Have all of a model held by these agents."""
        self.engine.holdings.lay_out(twin.chain.model.ref, tuple(names for _ in self.holders(twin)))

    def everywhere(self, twin):
        """Have every segment of a model held by every agent."""
        self.engine.holdings.lay_out(twin.chain.model.ref, tuple(tuple(self.crew.names) for _ in self.holders(twin)))


def assert_greedy(twin, prompt, tokens):
    expected, margins = twin.greedy(prompt, len(tokens))
    for ours, theirs, margin in zip(tokens, expected, margins, strict=True):
        if ours != theirs:
            assert margin < 1e-3, (tokens, expected)
            return
