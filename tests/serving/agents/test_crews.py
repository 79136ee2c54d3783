"""The contract of a crew, whatever its agents run in: processes of this machine, or actors of a Ray cluster of two."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from dataclasses import replace

import pytest
from tiny_checkpoints import build

from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Caller, Input
from quiltwork.serving import language_servable
from quiltwork.serving.agents.front import AgentEngine
from quiltwork.serving.agents.local import LocalCrew
from quiltwork.serving.agents.settings import AgentSettings
from quiltwork.serving.config import EngineConfig
from quiltwork.serving.engine import Engine
from quiltwork.serving.options import SamplingOptions
from quiltwork.serving.policy.cost import Link
from quiltwork.serving.sampling import SamplerState
from quiltwork.serving.sequence import Sequence
from quiltwork.zoo import Zoo
from quiltwork.zoo.segments import segment_id

PROMPT = [3, 14, 15, 9, 2, 6, 5, 35, 8, 9, 7, 9, 3, 23, 8, 46, 26, 43, 38, 3, 27, 9, 50, 28]
NAMES = ("base", "top", "other")
CONFIG = EngineConfig(kv_bytes=1 << 22, prefill_chunk=16, step_tokens=64)


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    """A base, a fine-tune of its upper half, and a model that shares nothing."""
    folder = tmp_path_factory.mktemp("crews")
    shape = {"num_hidden_layers": 4, "max_position_embeddings": 256}
    build("llama", **shape).save_pretrained(folder / "base")
    top = build("llama", **shape)
    for layer in top.model.layers[2:]:
        layer.mlp.down_proj.weight.data += 0.05
    top.save_pretrained(folder / "top")
    build("llama", seed=5, **shape).save_pretrained(folder / "other")
    with Zoo(folder / "zoo") as made:
        for name in NAMES:
            made.add(folder / name, name=name)
    return folder / "zoo"


class Served:
    """A front with its agents, and the few words a test needs."""

    def __init__(self, zoo, crew, settings, draft_tokens):
        self.crew = crew
        config = replace(CONFIG, draft_tokens=draft_tokens)
        self.engine = AgentEngine(config, crew, time.monotonic, settings)
        self.ids = itertools.count(1)
        self.zoo = Zoo(zoo)
        for name in NAMES:
            self.engine.install(self.engine.prepare(self.zoo.chain(name), self.zoo.read))

    def hold(self, name, *holders):
        segments = len(self.engine.holdings.models[ModelRef(name)].route)
        chosen = itertools.cycle(holders)
        self.engine.holdings.lay_out(ModelRef(name), tuple(tuple(next(chosen)) for _ in range(segments)))

    def finish(self, meanwhile=lambda tokens: None):
        return finish(self.engine, meanwhile)

    def close(self):
        self.zoo.close()
        self.engine.close()


def ask(engine, id, name, prompt, max_tokens, sampling=None):
    sampler = SamplerState(sampling or SamplingOptions(temperature=0.0), prompt)
    engine.add(Sequence(id, ModelRef(name), list(prompt), sampler, max_tokens))


def finish(engine, meanwhile=lambda tokens: None):
    tokens: dict[int, list[int]] = {}
    while engine.has_work:
        for emission in engine.step():
            assert emission.error is None, emission.error
            tokens.setdefault(emission.sequence_id, []).append(emission.token.token)
        meanwhile(tokens)
    return tokens


@pytest.fixture(params=["local", pytest.param("ray", marks=[pytest.mark.slow, pytest.mark.timeout(400)])])
def make(request, zoo):
    made = []
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")
        from quiltwork.serving.agents.ray_crew import RayCrew

    def make(agents=2, draft_tokens=None, **settings):
        chosen = AgentSettings(**settings)
        if request.param == "ray":
            crew = RayCrew("auto", agents, str(zoo), CONFIG, chosen)
        else:
            crew = LocalCrew(agents, str(zoo), CONFIG, chosen)
        made.append(Served(zoo, crew, chosen, draft_tokens))
        return made[-1]

    yield make
    for served in made:
        served.close()


@pytest.fixture(scope="session")
def alone(zoo):
    """What one process answers."""

    def alone(requests, **options):
        engine = Engine(CONFIG, time.monotonic)
        with Zoo(zoo) as opened:
            for name in NAMES:
                engine.install(engine.prepare(opened.chain(name), opened.read))
        for id, (name, prompt, count) in requests.items():
            ask(engine, id, name, prompt, count, **options)
        return finish(engine)

    return alone


REQUESTS = {i + 1: (NAMES[i % 3], PROMPT[i % 5 :], 12 + i) for i in range(9)}


def test_mixed_requests_are_answered_as_by_one_process(make, alone):
    served = make()
    for id, (name, prompt, count) in REQUESTS.items():
        ask(served.engine, id, name, prompt, count)
    assert served.finish() == alone(REQUESTS)
    assert {a for m in served.engine.holdings.models.values() for h in m.now.plan.holders for a in h} == set(
        served.crew.names
    )


@pytest.mark.slow
def test_sampled_answers_are_the_same_too(make, alone):
    options = SamplingOptions(temperature=0.9, top_k=20, seed=7)
    served = make()
    for id, (name, prompt, count) in REQUESTS.items():
        ask(served.engine, id, name, prompt, count, options)
    assert served.finish() == alone(REQUESTS, sampling=options)


def test_kill_9_of_every_agent_in_turn_changes_no_token(make, alone):
    served = make()
    first, second = served.crew.names
    served.hold("base", [first], [second])
    served.hold("top", [second], [first])
    for id, (name, prompt, count) in REQUESTS.items():
        ask(served.engine, id, name, prompt, count + 20)
    victims = [first, second]

    def kill(tokens):
        if victims and sum(map(len, tokens.values())) > 60 * (3 - len(victims)):
            os.kill(served.crew.pid(victims.pop(0)), signal.SIGKILL)

    longer = {id: (name, prompt, count + 20) for id, (name, prompt, count) in REQUESTS.items()}
    assert served.finish(kill) == alone(longer)
    assert not victims


@pytest.mark.parametrize(
    "options", [None, pytest.param(SamplingOptions(temperature=0.9, top_k=20, seed=7), marks=pytest.mark.slow)]
)
def test_drafts_change_no_token_though_an_agent_is_killed_meanwhile(make, alone, options):
    served = make(draft_tokens=3)
    first, second = served.crew.names
    served.hold("base", [first], [second])
    served.hold("top", [second], [first])
    drafts = {"base": "top", "top": "base", "other": "base"}
    for name, draft in drafts.items():
        served.engine.draft_with(ModelRef(name), ModelRef(draft))
    longer = {id: (name, prompt, count + 10) for id, (name, prompt, count) in REQUESTS.items()}
    for id, (name, prompt, count) in longer.items():
        ask(served.engine, id, name, prompt, count, options)
    victims = [first]

    def kill(tokens):
        if victims and sum(map(len, tokens.values())) > 60:
            os.kill(served.crew.pid(victims.pop()), signal.SIGKILL)

    assert served.finish(kill) == alone(longer, sampling=options)
    assert not victims
    counted = served.engine.stats().speculation
    assert 0 < counted.accepted_tokens < counted.draft_tokens


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["move", "recompute"])
def test_keys_and_values_travel_or_are_made_again_without_changing_a_token(make, alone, policy):
    served = make(kv_policy=policy, hysteresis=0.0)
    both = tuple(served.crew.names)
    for name in NAMES:
        served.hold(name, both)
    for id, (name, prompt, count) in REQUESTS.items():
        ask(served.engine, id, name, prompt, count)
    assert served.finish() == alone(REQUESTS)


@pytest.mark.slow
def test_a_slow_link_changes_no_token(make, alone):
    links = {(a, b): Link(1e-3, 2e6) for a in ("agent0", "agent1") for b in ("agent0", "agent1") if a != b}
    served = make(links=links)
    served.hold("base", ["agent0"], ["agent1"])
    requests = {1: ("base", PROMPT, 6), 2: ("base", PROMPT[1:], 6)}
    for id, (name, prompt, count) in requests.items():
        ask(served.engine, id, name, prompt, count)
    assert served.finish() == alone(requests)


@pytest.mark.slow
@pytest.mark.parametrize("make", ["local"], indirect=True)  # the Ray cluster of these tests has room for two agents
def test_one_of_four_agents_killed_over_a_slow_link_changes_no_token_and_every_queue_is_told(make, alone):
    slow = Link(1e-3, 2e6)
    served = make(agents=4, links={("agent0", "agent1"): slow, ("agent1", "agent0"): slow})
    served.hold("base", ["agent0"], ["agent1"])
    served.hold("top", ["agent0"], ["agent2"])
    served.hold("other", ["agent3"])
    for id, (name, prompt, count) in REQUESTS.items():
        ask(served.engine, id, name, prompt, count)
    victims = ["agent1"]

    def kill(tokens):
        if victims and sum(map(len, tokens.values())) > 30:
            os.kill(served.crew.pid(victims.pop()), signal.SIGKILL)

    def figures(name):
        told = [s for s in served.engine.samples() if s.name == f"quiltwork:agent_segment_{name}"]
        return {(s.labels["agent"], s.labels["segment"]): s.value for s in told}

    assert served.finish(kill) == alone(REQUESTS)
    assert not victims
    lowest = segment_id(served.engine.holdings.models[ModelRef("base")].route[0])
    shared = sum(len(prompt) + count - 1 for name, prompt, count in REQUESTS.values() if name != "other")
    until = time.monotonic() + 60
    while figures("rows_total").get(("agent0", lowest), 0) < shared:
        assert time.monotonic() < until, figures("rows_total")
        served.engine.step()
    rows, batches = figures("rows_total"), figures("batches_total")
    assert {"agent0", "agent2", "agent3"} <= {agent for agent, _ in rows}
    assert 0 < batches["agent0", lowest] < rows["agent0", lowest], "several requests ride in one batch"
    assert figures("waiting_rows")["agent0", lowest] == 0


@pytest.mark.slow
def test_unloading_frees_the_agents_memory(make, zoo):
    served = make()
    engine = Engine(CONFIG, time.monotonic)
    with Zoo(zoo) as opened:
        for name in ("base", "top"):
            engine.install(engine.prepare(opened.chain(name), opened.read))
    served.engine.unload(ModelRef("other"))

    def held():
        beats = [beat for beat in served.engine.agents().values() if beat is not None]
        return sum(beat.weight_bytes for beat in beats)

    until = time.monotonic() + 60
    while held() != engine.stats().weight_bytes:
        assert time.monotonic() < until, (held(), engine.stats().weight_bytes)
        served.engine.step()


def test_a_host_with_agents_logs_their_batches_and_shows_their_queues(zoo, tmp_path):
    path = tmp_path / "batches.jsonl"
    host = language_servable({"zoo": str(zoo), "agents": 2, "threads": 2, "log_batches": str(path), "seed": 1})
    try:
        for name in NAMES:
            host.load(ModelRef(name))
        streams = [
            host.submit(
                ModelRef(name),
                Input("completion", {"prompt": PROMPT[i:]}),
                {"max_tokens": 12, "ignore_eos": True, "temperature": 0.0},
                caller=Caller(),
            )
            for i, name in enumerate(NAMES * 3)
        ]
        for stream in streams:
            list(stream)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            found = {(s.name, *sorted(s.labels.items())): s.value for s in host.samples()}
            ran = {key: value for key, value in found.items() if key[0] == "quiltwork:agent_segment_rows_total"}
            if len({dict(key[1:])["agent"] for key in ran if ran[key]}) == 2:
                break
        else:
            pytest.fail(f"both agents' queues have moved: {ran}")
    finally:
        host.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {line["agent"] for line in lines} == {"agent0", "agent1"}
    assert any({"base", "top"} <= set(line["sequences"]) for line in lines), "two models in one executed batch"
    tokens = sum(line["rows"] for line in lines if line["first"] == "embed")
    assert tokens == sum(len(PROMPT[i:]) + 11 for i in range(9))


@pytest.mark.slow
@pytest.mark.parametrize("crew", ["local", pytest.param("ray", marks=pytest.mark.timeout(400))])
def test_more_models_than_agents_hold_come_and_go_without_changing_a_token(request, zoo, alone, crew):
    """One agent has room for a model and the other for half of one; ``top`` shares its lower half with ``base``."""
    engine = Engine(CONFIG, time.monotonic)
    with Zoo(zoo) as opened:
        engine.install(engine.prepare(opened.chain("base"), opened.read))
    each = round(1.25 * engine.stats().weight_bytes)
    settings = {"zoo": str(zoo), "agents": 2, "threads": 2, "seed": 1, "memory_bytes": 2 * each}
    if crew == "ray":
        request.getfixturevalue("ray_cluster")
        settings |= {"ray": "auto", "memory_bytes": each, "threads": 1}
    host = language_servable(settings)
    expected = alone(REQUESTS)
    most = 0
    try:
        for name in NAMES:
            host.offer(ModelRef(name))
        assert {hosted.state for hosted in host.models()} == {"absent"}
        kills = [host._engine.holdings.contact.names[1]] if crew == "local" else []
        for id, (name, prompt, count) in REQUESTS.items():
            options = {"max_tokens": count, "ignore_eos": True, "temperature": 0.0}
            stream = host.submit(ModelRef(name), Input("completion", {"prompt": prompt}), options, caller=Caller())
            if id == 5 and kills:
                os.kill(host._engine.holdings.contact._crew.pid(kills.pop()), signal.SIGKILL)
            assert [t for part in stream if not part.last for t in part.fields["token_ids"]] == expected[id]
            most = max(most, *(beat.weight_bytes for beat in host._engine.agents().values() if beat is not None))
        figures = {s.name: s.value for s in host.samples() if not s.labels}
        assert figures["quiltwork:model_evictions_total"] > 0
        assert figures["quiltwork:model_load_failures_total"] == 0
        assert most <= 0.9 * each
    finally:
        host.close()
