"""What a request would take on a chain that several agents hold: their queues, ways and batches, with every token."""

from __future__ import annotations

import dataclasses
import math
import time

import pytest
from agent_crew import MemorySource, ThreadCrew

from quiltwork.serving.agents.front import AgentEngine
from quiltwork.serving.agents.layout import Cut
from quiltwork.serving.agents.message import Beat
from quiltwork.serving.agents.outlook import Outlooks
from quiltwork.serving.agents.settings import AgentSettings
from quiltwork.serving.config import EngineConfig
from quiltwork.serving.policy.cost import CostTable, Link, SegmentProfile
from quiltwork.serving.sampling import SamplerState, SamplingOptions
from quiltwork.serving.sequence import Sequence

LOW, TOP, OTHER = ("low",), ("top",), ("other",)
ROWS = CostTable((1, 16), (1.0, 2.5))
PROFILES = {key: SegmentProfile(ROWS) for key in (LOW, TOP, OTHER)}
LINKS = {("a", "b"): Link(latency_s=0.25)}


def beat(agent, queue_s=0.0, steps=0, busy_s=0.0, batches=()):
    return Beat(agent, queue_s, 0, 0, 0, 0, steps, 0, 0, 0, 0, 0, 0, busy_s, batches=batches)


def look(cut, queues=None, gone=(), riding=None):
    outlooks = Outlooks(AgentSettings(profiles=PROFILES, links=LINKS))
    outlooks.hear({agent: beat(agent, seconds) for agent, seconds in (queues or {}).items()}, gone)
    return outlooks.of(cut, riding or {}, prompt=20, chunk=16, tokens=10)


def test_every_token_waits_at_every_agent_once():
    two = Cut((LOW, TOP), (("a",), ("b",)), (8, 8), 64)
    one = Cut((LOW, TOP), (("a",), ("a", "b")), (8, 8), 64)
    told = look(two, {"a": 3.0, "b": 5.0})
    assert (told.queue_s, told.step_s, told.steps) == (8.0, 2 * 1.0 + 0.25, 10)
    assert told.prompt_s == pytest.approx(2 * 2.5 + 2 * 1.3 + 2 * 0.25)
    told = look(one, {"a": 3.0, "b": 5.0})
    assert (told.queue_s, told.step_s) == (3.0, 2.0), "who has the next segment as well is not left"


def test_the_freest_holder_counts_and_who_is_gone_does_not():
    cut = Cut((LOW,), (("a", "b"),), (8,), 64)
    assert look(cut, {"a": 3.0, "b": 1.0}).queue_s == 1.0
    assert look(cut, {"a": 3.0, "b": 1.0}, gone={"b"}).queue_s == 3.0
    assert look(cut, gone={"a", "b"}).cost_s == math.inf


def test_joining_a_batch_costs_what_it_adds():
    shared, own = Cut((LOW, TOP), (("a",), ("a",)), (8, 8), 64), Cut((LOW, OTHER), (("a",), ("a",)), (8, 8), 64)
    riding = {LOW: 4, TOP: 4}
    assert look(shared, riding=riding).step_s == pytest.approx(0.2)
    assert look(own, riding=riding).step_s == pytest.approx(1.1)


def test_what_batches_cost_is_learnt_from_what_agents_were_busy_with():
    outlooks, cut = Outlooks(AgentSettings()), Cut((("x", "y"),), (("a",),), (8,), 64)
    outlooks.hear({"a": beat("a")})
    guessed = outlooks.of(cut, {}, prompt=1, chunk=16, tokens=1).step_s
    outlooks.hear({"a": beat("a", steps=10, busy_s=40.0, batches=((2, 1, 1, 1), (2, 1, 1, 1)))})
    assert outlooks.of(cut, {}, prompt=1, chunk=16, tokens=1).step_s == pytest.approx(2.0) != guessed
    outlooks.hear({"a": beat("a", steps=3, busy_s=1.0, batches=((2, 1, 1, 1),))})
    assert outlooks.of(cut, {}, prompt=1, chunk=16, tokens=1).step_s == pytest.approx(2.0), "it was started anew"


def test_the_front_tells_of_what_its_agents_hold(family):
    source = MemorySource(family.bench)
    engine = AgentEngine(EngineConfig(), ThreadCrew(source, 2, 1 << 24, None), time.monotonic)
    try:
        base, absent = family.base(), family.base("absent")
        source.chains[base.chain.model.ref] = base.chain
        engine.install(engine.prepare(base.chain, source.read))
        seq = Sequence(1, base.chain.model.ref, [1, 2, 3], SamplerState(SamplingOptions(), [1, 2, 3]), 8)
        told = engine.outlooks(seq, {twin.chain.model.ref: twin.chain for twin in (base, absent)})
        assert list(told) == [base.chain.model.ref]
        assert 0 < told[base.chain.model.ref].cost_s < math.inf
        engine.residency.offer(absent.chain)
        told = engine.outlooks(seq, {twin.chain.model.ref: twin.chain for twin in (base, absent)})
        same = dataclasses.replace(told[base.chain.model.ref], queue_s=0.0)
        assert dataclasses.replace(told[absent.chain.model.ref], queue_s=0.0) == same, "what may be asked for counts"
    finally:
        engine.close()
