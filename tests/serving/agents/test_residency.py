"""More models than agents hold: they come when they are asked for, and what is worth least goes for them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime

import pytest
from agent_crew import ThreadCrew
from lazy_host import ALL, PROMPT, Shelf, ask, counters, tokens

from quiltwork.core.errors import CapacityError
from quiltwork.serving import Engine, EngineConfig, LanguageModels
from quiltwork.serving.agents.front import AgentEngine
from quiltwork.serving.agents.holdings import WEIGHTS_PART
from quiltwork.serving.agents.settings import AgentSettings
from quiltwork.serving.drafts import Drafts
from quiltwork.serving.policy.cost import CostTable, SegmentProfile
from quiltwork.zoo.segments import segments

SECONDS = 20.0


@contextmanager
def serving(family, memory, *twins, agents=2, drafts=None, **decisions):
    """A host over agents in threads that offers models without loading them; the most weights of any agent."""
    shelf = Shelf(family.bench)
    config = EngineConfig(memory_bytes=memory, max_num_seqs=4)
    settings = AgentSettings(rebalance_s=0, **decisions)
    crew = ThreadCrew(shelf, agents, settings=settings, memory_bytes=memory and memory // agents)
    engine = AgentEngine(config, crew, time.monotonic, settings)
    host = LanguageModels(
        engine, lambda: shelf, drafts=drafts, now=lambda: datetime(2026, 1, 1), wake=engine.wake, end=engine.close
    )
    host.shelf, host.engine, host.crew, host.most = shelf, engine, crew, 0
    sort = engine.holdings.contact._sort

    def watched(message):
        host.most = max(host.most, getattr(message, "weight_bytes", 0))
        sort(message)

    engine.holdings.contact._sort = watched
    try:
        for twin in twins:
            host.offer(shelf.put(twin))
        yield host
    finally:
        shelf.gate.set()
        host.close()


def resident(host):
    return {ref.name for ref in host.engine.holdings.models}


def until(true, what="it comes true"):
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end, what
        threading.Event().wait(0.01)


@pytest.fixture(scope="module")
def alone(family):
    """What one engine in this process answers."""
    known = {}

    def alone(twin, **options):
        key = (twin.chain.model.ref, *options.items())
        if key not in known:
            shelf = Shelf(family.bench)
            engine = Engine(EngineConfig(max_num_seqs=4), time.monotonic)
            host = LanguageModels(engine, lambda: shelf, now=lambda: datetime(2026, 1, 1))
            host.load(shelf.put(twin))
            known[key] = tokens(ask(host, twin, **options))
            host.close()
        return known[key]

    return alone


@pytest.fixture(scope="module")
def strangers(family):
    """Models that share nothing, and the bytes of one."""
    twins = [family.changed(f"m{at}", *ALL, seed=at + 20) for at in range(4)]
    engine = Engine(EngineConfig(), lambda: 0.0)
    engine.install(engine.prepare(twins[0].chain, family.bench.read))
    return twins, engine.roster.library.nbytes


def test_more_models_than_agents_hold_answer_as_in_one_engine_within_each_agents_memory(family, strangers, alone):
    twins, size = strangers
    memory = 3 * size  # one model each
    with serving(family, memory, *twins) as host:
        assert resident(host) == set()
        for twin in twins * 3:
            assert tokens(ask(host, twin)) == alone(twin)
            assert len(resident(host)) <= 2
        assert counters(host).loads == 12
        assert counters(host).evictions == 10
        assert counters(host).evicted_bytes == 10 * size

        def one(at):
            assert tokens(ask(host, twins[at % 4])) == alone(twins[at % 4])

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(one, range(16)))
        assert 0 < host.most <= WEIGHTS_PART * memory / 2
        assert host.status()["queue"]["outstanding"] == 0
        figures = {sample.name: sample.value for sample in host.samples()}
        assert figures["quiltwork:models_offered"] == 4
        assert figures["quiltwork:models_resident"] == len(resident(host))
        assert figures["quiltwork:model_evictions_total"] == counters(host).evictions


def test_what_is_asked_for_often_stays_and_so_does_what_is_pinned(family, strangers):
    twins, size = strangers
    with serving(family, 3 * size, *twins) as host:
        for _ in range(4):
            tokens(ask(host, twins[0]))
        for twin in twins[1:]:
            tokens(ask(host, twin))
            assert resident(host) == {"m0", twin.chain.model.ref.name}
        host.pin(twins[2].chain.model.ref)
        for _ in range(9):
            tokens(ask(host, twins[1]))
        assert resident(host) == {"m1", "m2"}
        shown = {hosted.ref.name: (hosted.state, hosted.info["pinned"]) for hosted in host.models()}
        assert shown == {
            "m0": ("absent", False),
            "m1": ("ready", False),
            "m2": ("ready", True),
            "m3": ("absent", False),
        }
        host.pin(twins[2].chain.model.ref, False)
        tokens(ask(host, twins[0]))
        assert resident(host) == {"m0", "m1"}


def test_siblings_fit_together_for_what_they_share_is_there_once(family, alone):
    siblings = [family.changed(f"s{at}", "layers.3.", "lm_head", seed=at + 40) for at in range(3)]
    engine = Engine(EngineConfig(), lambda: 0.0)
    for twin in siblings:
        engine.install(engine.prepare(twin.chain, family.bench.read))
    together = engine.roster.library.nbytes
    with serving(family, int(1.4 * together), *siblings) as host:
        for twin in siblings * 2:
            assert tokens(ask(host, twin)) == alone(twin)
        assert resident(host) == {"s0", "s1", "s2"}
        assert counters(host).evictions == 0
        # What several blocks of one agent have in common, such as a norm, counts once on each.
        until(lambda: together <= host.engine.stats().weight_bytes < 1.01 * together, "agents tell what they hold")
        host.unload(siblings[0].chain.model.ref)
        for twin in siblings[1:]:
            host.unload(twin.chain.model.ref)
        until(lambda: host.engine.stats().weight_bytes == 0, "nothing is left behind")


def test_what_never_fits_is_one_clear_error_and_nothing_is_dropped(family, strangers):
    twins, size = strangers
    with serving(family, 3 * size, *twins[:3]) as host:
        for twin in twins[:2]:
            tokens(ask(host, twin))
            host.pin(twin.chain.model.ref)
        with pytest.raises(CapacityError, match=r"m2: needs .* of .*raise --memory"):
            tokens(ask(host, twins[2]))
        assert resident(host) == {"m0", "m1"}
        assert counters(host).evictions == 0
    with serving(family, int(1.1 * size)) as host:
        with pytest.raises(CapacityError, match=r"m0: needs .* of .*raise --memory"):
            host.offer(host.shelf.put(twins[0]))
        assert host.models() == []
    with (
        serving(family, int(1.5 * size), agents=12) as host,
        pytest.raises(CapacityError, match=r"m0: a part of it fits no agent's .*fewer agents"),
    ):
        host.offer(host.shelf.put(twins[0]))


def test_a_model_larger_than_an_agent_is_cut_over_several(family, strangers, alone):
    twins, size = strangers
    with serving(family, int(1.5 * size), *twins[:2]) as host:
        for twin in twins[:2] * 2:
            assert tokens(ask(host, twin)) == alone(twin)
            (planned,) = (placed.now.plan for placed in host.engine.holdings.models.values())
            assert {agent for holders in planned.holders for agent in holders} == {"a0", "a1"}
        assert host.most <= WEIGHTS_PART * 0.75 * size


def test_running_requests_end_as_they_would_have_and_others_wait_for_their_memory(family, strangers, alone):
    twins, size = strangers
    with serving(family, 3 * size, *twins[:3]) as host:
        running = [ask(host, twin, max_tokens=100) for twin in twins[:2]]
        begun = [list(next(iter(stream)).fields["token_ids"]) for stream in running]
        waiting = ask(host, twins[2])
        for made, stream, twin in zip(begun, running, twins, strict=False):
            assert made + tokens(stream) == alone(twin, max_tokens=100)
        assert tokens(waiting) == alone(twins[2])


def test_an_agent_killed_while_it_loads_a_model_loses_nothing(family, strangers, alone):
    twins, size = strangers
    with serving(family, 3 * size, *twins[:2]) as host:
        assert tokens(ask(host, twins[0])) == alone(twins[0])
        beside = ask(host, twins[0], max_tokens=100)
        begun = list(next(iter(beside)).fields["token_ids"])
        host.shelf.gate.clear()
        host.shelf.reading.clear()
        waiting = ask(host, twins[1])
        host.shelf.reading.wait()
        (victim,) = [name for name, thread in host.crew._threads.items() if thread is host.shelf.reader]
        host.crew.kill(victim)
        host.shelf.gate.set()
        assert tokens(waiting) == alone(twins[1])
        assert begun + tokens(beside) == alone(twins[0], max_tokens=100)
        assert counters(host).failures == 0


def test_an_agent_that_comes_back_loads_only_what_is_in_memory(family, strangers, alone):
    twins, size = strangers
    with serving(family, 3 * size, *twins) as host:
        for twin in twins:
            tokens(ask(host, twin))
        (name,) = host.engine.holdings.models[twins[3].chain.model.ref].now.plan.holders[0]
        old = host.crew.agents[name]
        host.crew.kill(name)
        until(lambda: host.crew.agents[name] is not old and name not in host.engine.holdings.contact.gone)
        assert host.crew.agents[name].library.nbytes == size
        assert tokens(ask(host, twins[3])) == alone(twins[3])
        assert counters(host).loads == 4


def test_a_replica_goes_before_a_model_does(family, strangers):
    twins, size = strangers
    with serving(family, 3 * size, *twins[:2]) as host:
        tokens(ask(host, twins[0]))
        both = tuple(host.crew.names)
        host.engine.holdings.lay_out(twins[0].chain.model.ref, (both,))
        tokens(ask(host, twins[1]))
        assert resident(host) == {"m0", "m1"}
        assert counters(host).evictions == 0
        assert host.most <= WEIGHTS_PART * 1.5 * size


def test_a_long_request_has_idle_weights_leave_and_an_impossible_one_does_not(family, strangers):
    twins, size = strangers
    with serving(family, int(2.4 * size), *twins[:2], agents=1) as host:
        for twin in twins[:2]:
            tokens(ask(host, twin, max_tokens=1))
        assert resident(host) == {"m0", "m1"}
        placed = host.engine.holdings.models[twins[0].chain.model.ref]
        (per_token,) = placed.kv_at.values()
        long = 16 * (host.engine.residency.kv_capacity("a0", host.engine.holdings.share) // (16 * per_token) + 1) - len(
            PROMPT
        )
        assert len(tokens(ask(host, twins[0], max_tokens=long))) == long
        assert resident(host) == {"m0"}


def test_a_load_leaves_running_requests_the_memory_that_they_may_come_to_need(family, strangers, alone):
    twins, size = strangers
    with serving(family, int(2.3 * size), agents=1) as host:
        host.load(host.shelf.put(twins[0]))
        running = ask(host, twins[0], max_tokens=120)
        begun = list(next(iter(running)).fields["token_ids"])
        with pytest.raises(CapacityError, match="m1"):
            host.load(host.shelf.put(twins[1]))
        assert begun + tokens(running) == alone(twins[0], max_tokens=120)
        host.load(twins[1].chain.model.ref)
        assert tokens(ask(host, twins[1])) == alone(twins[1])


def test_a_draft_comes_with_its_model_and_changes_no_token(family, strangers, alone):
    twins, size = strangers
    with serving(family, 4 * size, *twins[:3], drafts=Drafts(twins[3].chain.model.ref)) as host:
        host.shelf.put(twins[3])
        for twin in (*twins[:3], *twins[:3]):
            assert tokens(ask(host, twin, max_tokens=30)) == alone(twin, max_tokens=30)
            assert "m3" in resident(host)
        assert counters(host).evictions > 0
        assert host.engine.stats().speculation.draft_tokens > 0


def test_a_load_that_fails_fails_its_requests_alone_and_may_be_tried_again(family, strangers, alone):
    twins, size = strangers
    with serving(family, 3 * size, *twins[:2]) as host:
        tokens(ask(host, twins[0]))
        host.shelf.broken = {twins[1].chain.links[4].block.tensors[1].content}
        with pytest.raises(CapacityError, match="not what its hash says"):
            tokens(ask(host, twins[1]))
        assert tokens(ask(host, twins[0])) == alone(twins[0])
        assert counters(host).failures == 1
        host.shelf.broken = set()
        assert tokens(ask(host, twins[1])) == alone(twins[1])
        assert counters(host).loads == 2


def test_without_a_cap_models_come_when_they_are_asked_for_and_stay(family, strangers, alone):
    twins, _ = strangers
    with serving(family, None, *twins) as host:
        for twin in twins * 2:
            assert tokens(ask(host, twin)) == alone(twin)
        assert counters(host).loads == 4
        assert counters(host).evictions == 0


def test_room_is_made_where_the_placement_that_is_set_wants_models(family):
    chains = {t.chain.model.ref: t.chain for t in (family.base(), family.changed("top", "layers.3.", seed=4))}
    keys = {
        tuple(part.block.id for part in chains[ref].links[run.start : run.stop])
        for ref, runs in segments({ref: chain.links for ref, chain in chains.items()}).items()
        for run in runs
    }
    flat = SegmentProfile(CostTable((1, 64), (0.01, 0.01)))
    homes = {}
    for provisioning in ("segments", "settled"):
        with serving(family, 1 << 26, provisioning=provisioning, profiles=dict.fromkeys(keys, flat)) as host:
            assert host.engine.residency.make_room(list(chains.values())) is None
            homes[provisioning] = {ref: found.plan.holders for ref, found in host.engine.holdings.set_apart.items()}
    whole = [set.intersection(*map(set, holders)) for holders in homes["settled"].values()]
    assert all(whole)
    assert homes["settled"] != homes["segments"]
