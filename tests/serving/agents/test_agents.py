"""Several agents give the answers that one process gives, whatever is lost on the way."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
import torch
from agent_crew import CPU, MemorySource
from agent_fleet import PROMPT, assert_greedy

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.serving.agents.agent import Agent
from quiltwork.serving.agents.compute import computing
from quiltwork.serving.agents.contact import Lost
from quiltwork.serving.agents.message import DropState, Lay, Output, Pages, Run
from quiltwork.serving.agents.scaling import Lately, label
from quiltwork.serving.agents.settings import AgentSettings
from quiltwork.serving.kv import KVCache
from quiltwork.serving.options import SamplingOptions
from quiltwork.serving.policy.cost import CostTable, Link, SegmentProfile
from quiltwork.serving.policy.queueing import WorkClass
from quiltwork.serving.weights import Library
from quiltwork.zoo.segments import segment_id


def test_a_model_that_shares_nothing_takes_one_hop(make, fleet):
    f = make()
    f.load(fleet["base"])
    f.ask(fleet["base"], PROMPT, 6)
    (tokens,) = f.finish().values()
    assert_greedy(fleet["base"], PROMPT, tokens)
    (holders,) = f.holders(fleet["base"])
    assert len(holders) == 1


def test_all_models_over_two_agents_answer_as_transformers_does(make, fleet):
    f = make()
    f.load(*fleet.values())
    asked = {f.ask(twin, PROMPT[i:], 5 + i): (twin, PROMPT[i:]) for i, twin in enumerate(fleet.values())}
    answers = f.finish()
    for id, (twin, prompt) in asked.items():
        assert_greedy(twin, prompt, answers[id])
    assert {a for twin in fleet.values() for holders in f.holders(twin) for a in holders} == {"a0", "a1"}


def test_a_chain_cut_over_agents_answers_as_in_one_piece(make, fleet):
    f = make(agents=3, prefill_chunk=16)
    f.load(*fleet.values())
    for name in ("base", "top1", "lora"):
        f.spread(fleet[name], "a0", "a1", "a2")
    asked = {f.ask(fleet[name], PROMPT * 2, 8): name for name in ("base", "top1", "lora", "base")}
    answers = f.finish()
    for id, name in asked.items():
        assert_greedy(fleet[name], PROMPT * 2, answers[id])


def test_sampling_is_the_same_as_in_one_process(make, fleet, desk):
    options = SamplingOptions(temperature=0.8, top_p=0.9, seed=5)
    f = make()
    f.load(*fleet.values())
    f.ask(fleet["top1"], PROMPT, 12, sampling=options)
    d = desk()
    d.load(*fleet.values())
    d.ask(fleet["top1"], PROMPT, 12, sampling=options)
    assert f.finish() == d.finish()


def test_an_agent_that_is_killed_mid_stream_changes_no_token(make, fleet):
    f = make(agents=3, prefill_chunk=16)
    f.load(*fleet.values())
    for name in ("base", "top1"):
        f.spread(fleet[name], "a0", "a1", "a2")
    asked = {f.ask(fleet[name], PROMPT, 30): name for name in ("base", "top1", "base")}
    victims = iter(["a1", "a0", "a2"])

    def kill(tokens):
        if sum(map(len, tokens.values())) >= 9 * (4 - kill.left) and kill.left:
            kill.left -= 1
            f.crew.kill(next(victims))

    kill.left = 3
    answers = f.finish(kill)
    assert kill.left == 0
    for id, name in asked.items():
        assert len(answers[id]) == 30
        assert_greedy(fleet[name], PROMPT, answers[id])


@pytest.mark.parametrize("seed", range(4))
def test_state_dropped_at_any_moment_changes_no_token(make, fleet, seed):
    f = make(agents=2, prefill_chunk=16)
    f.load(fleet["base"], fleet["top1"])
    for name in ("base", "top1"):
        f.spread(fleet[name], "a0", "a1")
    asked = {f.ask(fleet[name], PROMPT * 2, 20): name for name in ("base", "top1")}
    random = Random(seed)

    def drop(tokens):
        if random.random() < 0.3:
            f.crew.mailbox.send(random.choice(f.crew.names), DropState(random.choice(list(asked))))

    answers = f.finish(drop)
    for id, name in asked.items():
        assert_greedy(fleet[name], PROMPT * 2, answers[id])


@pytest.mark.parametrize("policy", ["best", "owner", "move", "recompute"])
def test_replicas_share_the_work_and_every_way_to_the_keys_and_values_gives_the_same(make, fleet, policy):
    f = make(agents=3, prefill_chunk=16, settings=AgentSettings(kv_policy=policy))
    f.load(fleet["base"], fleet["top1"])
    for name in ("base", "top1"):
        f.everywhere(fleet[name])
    asked = {f.ask(fleet[name], PROMPT[i:], 24): (name, PROMPT[i:]) for i, name in enumerate(["base", "top1"] * 4)}
    answers = f.finish()
    for id, (name, prompt) in asked.items():
        assert_greedy(fleet[name], prompt, answers[id])
    beats = [agent.beat() for agent in f.crew.agents.values()]
    assert all(beat.steps for beat in beats)
    if policy == "owner":
        assert not any(beat.kv_moves or beat.kv_recomputed for beat in beats)
    if policy == "move":
        assert sum(beat.kv_moved_bytes for beat in beats) > 0


@pytest.mark.parametrize(("slow", "fast"), [("a1", "a2"), ("a2", "a1")])
def test_work_goes_around_a_slow_link(make, fleet, slow, fast):
    base = fleet["base"]
    links = {(there, slow): Link(5.0, 1e3) for there in ("a0", fast)}
    f = make(agents=3, settings=AgentSettings(links=links, rebalance_s=0.0))
    f.load(base, fleet["top1"])
    upper = len(f.holders(base)) - 1
    assert upper > 0
    f.engine.holdings.lay_out(base.chain.model.ref, (("a0",), *[("a1", "a2")] * upper))
    asked = {f.ask(base, PROMPT[i:], 8): PROMPT[i:] for i in range(6)}
    answers = f.finish()
    for id, prompt in asked.items():
        assert_greedy(base, prompt, answers[id])
    beats = {name: agent.beat() for name, agent in f.crew.agents.items()}
    assert beats[slow].steps == 0
    assert min(beats["a0"].steps, beats[fast].steps) > 0


@pytest.mark.parametrize("agents", [1, 2])
def test_prompts_are_rationed_where_others_decode_and_no_token_changes(make, fleet, agents):
    base, lora = fleet["base"], fleet["lora"]
    f = make(agents=agents, prefill_chunk=64, settings=AgentSettings(slack=0.0, rebalance_s=0.0))
    f.load(base, lora)
    for twin in (base, lora):
        f.spread(twin, *f.crew.names)
    first, later, prompt = f.ask(base, PROMPT, 60), {}, (PROMPT * 6)[:133]

    def crowd(tokens):
        if not later and len(tokens.get(first, ())) > 3:
            later.update({f.ask(twin, prompt, 6): twin for twin in (base, lora, base)})

    answers = f.finish(crowd)
    assert_greedy(base, PROMPT, answers[first])
    for id, twin in later.items():
        assert_greedy(twin, prompt, answers[id])


@pytest.mark.parametrize(("slack", "ends"), [(float("inf"), {1: 25, 2: 100}), (0.5, {1: 25, 2: 16})])
def test_an_agent_runs_the_first_rows_of_a_prompt_that_would_hold_up_who_decodes(family, fleet, slack, ends):
    base, source = fleet["base"], MemorySource(family.bench)
    chain = source.chains[base.chain.model.ref] = base.chain
    cache = KVCache(1 << 24, CPU.dtype, CPU.device)
    key = tuple(link.block.id for link in chain.links)
    chosen = AgentSettings(slack=slack, profiles={key: SegmentProfile(CostTable((1, 128), (0.01, 1.28)))})
    agent = Agent("a", Library(CPU), cache, computing(cache), source, time.monotonic, chosen)
    agent.handle(Lay(1, str(chain.model.ref), chain.model.version, (0, len(chain.links)), (("a",),)))

    def run(request, start, rows, work_class):
        agent.handle(Run(request, 1, 1, 0, start, start, torch.arange(rows) % 90, 1, int(work_class), 0, 100, (None,)))

    def ran():
        agent.step()
        letters = [letter for _, letter in agent.outbox if isinstance(letter, Output)]
        agent.outbox.clear()
        return {letter.request: letter for letter in letters}

    run(1, 0, 24, WorkClass.PREFILL)
    assert ran()[1].end == 24, "alone it is not cut"
    run(1, 24, 1, WorkClass.DECODE)
    run(2, 0, 100, WorkClass.PREFILL)
    outputs = ran()
    assert {request: letter.end for request, letter in outputs.items()} == ends
    assert outputs[1].rows.shape[0] == 1
    assert outputs[2].rows.shape[0] == (ends[2] == 100), "logits come with the last row"
    assert not agent.has_work


@pytest.mark.parametrize("known", [True, False])
def test_a_new_request_lives_where_its_segments_are_in_use_already_once_their_cost_is_known(make, fleet, known):
    base, full = fleet["base"], fleet["full"]
    flat = SegmentProfile(CostTable((1, 64), (0.01, 0.011)))
    keys = [tuple(link.block.id for link in twin.chain.links) for twin in (base, full)]
    profiles = dict.fromkeys(keys, flat) if known else {}
    f = make(agents=2, settings=AgentSettings(admission="steps", profiles=profiles, rebalance_s=0.0, kv_policy="owner"))
    f.load(base, full)
    f.everywhere(base)
    f.hold(full, "a0")
    went = {}

    def look(to, letter):
        if isinstance(letter, Run):
            went.setdefault(letter.request, to)
        return letter

    f.crew.post.spoil = look
    strange = f.ask(full, PROMPT, 40)
    asked = [f.ask(base, PROMPT[i:], 40 - i) for i in range(4)]
    answers = f.finish()
    for i, id in enumerate(asked):
        assert_greedy(base, PROMPT[i:], answers[id])
    assert_greedy(full, PROMPT, answers[strange])
    assert went[strange] == "a0"
    if known:
        assert {went[id] for id in asked} == {"a1"}


def test_chains_settle_by_what_was_learnt_of_their_steps_and_answers_stay_the_same(make, fleet):
    chosen = AgentSettings(provisioning="settled", admission="steps", slack=0.5, rebalance_s=0.0)
    f = make(agents=2, prefill_chunk=16, settings=chosen)
    base, top, full = fleet["base"], fleet["top1"], fleet["full"]
    f.load(base)
    f.ask(base, PROMPT, 4)
    f.finish()
    timing = f.engine._outlooks.timing
    while timing.known(f.engine.holdings.models[base.chain.model.ref].now.cut, 0) is None:
        f.ask(base, PROMPT, 4)
        f.finish()
    f.load(top, full)
    for twin in (base, top, full):
        assert set.intersection(*map(set, f.holders(twin))), "every chain is whole somewhere"
    asked = {f.ask(twin, PROMPT[i:], 12): (twin, PROMPT[i:]) for i, twin in enumerate([base, top, full] * 2)}
    answers = f.finish()
    for id, (twin, prompt) in asked.items():
        assert_greedy(twin, prompt, answers[id])


def test_damaged_pages_are_computed_again(make, fleet):
    f = make(agents=2, prefill_chunk=16, settings=AgentSettings(kv_policy="move", hysteresis=0.0))
    f.load(fleet["base"], fleet["top1"])
    f.everywhere(fleet["base"])
    spoilt = []

    def spoil(to, message):
        if isinstance(message, Pages) and message.tokens:
            spoilt.append(to)
            return replace(message, rows=message.rows + 1.0)
        return message

    f.crew.post.spoil = spoil
    asked = {f.ask(fleet["base"], PROMPT[i:], 24): PROMPT[i:] for i in range(6)}
    answers = f.finish()
    assert spoilt
    for id, prompt in asked.items():
        assert_greedy(fleet["base"], prompt, answers[id])


def test_scarce_pages_put_the_youngest_back_and_change_no_token(make, fleet):
    page = 4 * 2 * 2 * 16 * 8 * 4
    f = make(agents=2, kv_bytes=7 * page, max_num_seqs=4)
    f.load(fleet["base"], fleet["head"])
    asked = {f.ask(fleet[name], PROMPT[i:], 50): (name, PROMPT[i:]) for i, name in enumerate(["base", "head"] * 2)}
    answers = f.finish()
    for id, (name, prompt) in asked.items():
        assert len(answers[id]) == 50
        assert_greedy(fleet[name], prompt, answers[id])


def test_a_repeated_prompt_is_not_computed_twice(make, fleet):
    f = make(agents=1)
    f.load(fleet["base"])
    prompt = (PROMPT * 6)[:129]
    answers = []
    for cached in (0, 128):
        f.ask(fleet["base"], prompt, 4)
        seen = []
        while f.engine.has_work:
            seen += f.engine.step()
        answers.append([e.token.token for e in seen])
        assert seen[0].cached_tokens == cached
    assert answers[0] == answers[1]


def test_an_upgrade_under_load_lets_running_requests_finish_on_the_old_version(make, family):
    f = make()
    old, new = family.changed("m", ".", seed=11), family.changed("m", "layers.3", seed=12)
    f.load(old, family.base())
    first = f.ask(old, PROMPT, 10)
    answers = {}
    for _ in range(4):
        for e in f.engine.step():
            answers.setdefault(e.sequence_id, []).append(e.token.token)
    f.load(new)
    second = f.ask(new, PROMPT, 10)
    for id, tokens in f.finish().items():
        answers.setdefault(id, []).extend(tokens)
    assert_greedy(old, PROMPT, answers[first])
    assert_greedy(new, PROMPT, answers[second])


def test_a_reloaded_name_with_other_weights_never_sees_old_pages(make, family):
    f = make(agents=1)
    prompt = (PROMPT * 4)[:81]
    old, new = family.changed("m", ".", seed=11), family.changed("m", ".", seed=12)
    assert old.greedy(prompt, 8)[0] != new.greedy(prompt, 8)[0]
    for twin, asked in ((old, 0), (old, 80), (new, 0)):
        f.load(twin)
        f.ask(twin, prompt, 8)
        seen = []
        while f.engine.has_work:
            seen += f.engine.step()
        assert_greedy(twin, prompt, [emission.token.token for emission in seen])
        assert seen[0].cached_tokens == asked


def test_nonsense_is_refused_as_in_one_process(make, fleet):
    f = make(kv_bytes=4 * 4 * 2 * 2 * 16 * 8 * 4)
    f.load(fleet["base"])
    with pytest.raises(NotFoundError):
        f.ask(fleet["top1"], PROMPT)
    with pytest.raises(BadInputError):
        f.ask(fleet["base"], [1000])
    with pytest.raises(BadInputError):
        f.ask(fleet["base"], PROMPT, 10_000)
    with pytest.raises(BadInputError, match="--memory"):
        f.ask(fleet["base"], PROMPT, 80)
    f.engine.unload(fleet["base"].chain.model.ref)
    with pytest.raises(NotFoundError):
        f.engine.unload(fleet["base"].chain.model.ref)


def test_a_reply_tells_which_agents_it_went_through_and_how_they_got_its_keys_and_values(make, fleet):
    f = make(agents=2)
    base = fleet["base"]
    f.load(base, fleet["top1"])
    f.spread(base, "a0", "a1")
    id = f.ask(base, PROMPT, max_tokens=6, explain=True)
    quiet = f.ask(base, PROMPT[1:], max_tokens=6)
    waiting = dict(f.engine._sequences)
    assert waiting[quiet].trace is None
    trace = waiting[id].trace
    f.finish()
    told = trace.to_json()
    keys = f.engine.holdings.models[base.chain.model.ref].now.cut.keys
    assert [hop["agent"] for hop in told["hops"]] == ["a0", "a1", "a0"][: len(keys)]
    assert [segment for hop in told["hops"] for segment in hop["segments"]] == [segment_id(key) for key in keys]
    assert (told["hops"][0]["first"], told["hops"][-1]["last"]) == ("embed", "head")
    assert sum(hop["blocks"] for hop in told["hops"]) == len(base.chain.links)
    for hop in told["hops"]:
        assert hop["kv"] == {"none": 1, "owner": 5}
        assert hop["batches"]["count"] == 6
        assert hop["seconds"]["run"] > 0
    assert told["kv"]["resent"] == 0
    assert told["seconds"]["prefill"] > 0
    assert told["seconds"]["decode"] > 0


def test_a_lost_agent_shows_in_the_explanation(make, fleet):
    f = make(agents=2)
    base = fleet["base"]
    f.load(base)
    f.everywhere(base)
    f.ask(base, PROMPT, max_tokens=12, explain=True)
    (sequence,) = f.engine._sequences.values()
    killed = []

    def kill(tokens):
        if not killed and any(len(drawn) >= 3 for drawn in tokens.values()):
            killed.append(next(owner for owner in f.engine._flights[sequence.id].visited if owner))
            f.crew.kill(killed[0])

    f.finish(kill)
    told = sequence.trace.to_json()
    assert told["kv"]["resent"] + told["kv"]["preemptions"] > 0
    assert killed[0] in {hop["agent"] for hop in told["hops"]}
    assert told["batches"]["count"] >= 12


@pytest.mark.parametrize("policy", ["owner", "move"])
def test_what_was_decided_for_keys_and_values_is_told_as_it_was(make, fleet, policy):
    f = make(agents=3, prefill_chunk=16, settings=AgentSettings(kv_policy=policy))
    f.load(fleet["base"])
    f.everywhere(fleet["base"])
    for at in range(8):
        f.ask(fleet["base"], PROMPT[at:], 24, explain=True)
    traces = [seq.trace for seq in f.engine._sequences.values()]
    f.finish()
    choices = Counter()
    for trace in traces:
        choices.update(trace.to_json()["kv"]["choices"])
    moves = sum(agent.beat().kv_moves for agent in f.crew.agents.values())
    assert (choices["move"] > 0) == (moves > 0) == (policy == "move")
    assert choices["move"] <= moves
    assert choices["none"] >= len(traces)


def test_a_busy_segment_is_replicated_alone_and_an_idle_replica_retired(make, fleet):
    f = make(agents=2, settings=AgentSettings(rebalance_s=0.0), max_num_seqs=16)
    f.load(fleet["base"], fleet["top1"])
    for name in ("base", "top1"):
        f.hold(fleet[name], "a0")
    keys = f.engine.holdings.models[fleet["base"].chain.model.ref].route
    lower = label(keys[0])

    f.engine.holdings.rebalance({"a0": Lately(0.95, {lower: 100.0}, {}), "a1": Lately(0.1, {}, {})})
    assert f.holders(fleet["base"]) == (("a0", "a1"), *([("a0",)] * (len(keys) - 1)))
    assert f.holders(fleet["top1"])[0] == ("a0", "a1"), "whoever shares it has it too"
    asked = {f.ask(fleet[name], PROMPT[i:], 12): (name, PROMPT[i:]) for i, name in enumerate(["base", "top1"] * 3)}
    answers = f.finish()
    for id, (name, prompt) in asked.items():
        assert_greedy(fleet[name], prompt, answers[id])

    f.engine.holdings.rebalance({"a0": Lately(0.1, {}, {}), "a1": Lately(0.1, {}, {})})
    assert all(len(names) == 1 for name in ("base", "top1") for names in f.holders(fleet[name]))
    assert not f.engine.complaints


def test_requests_of_two_models_ride_in_one_batch_of_what_they_share_and_queues_are_counted(make, fleet):
    f = make(agents=2, settings=AgentSettings(rebalance_s=0.0))
    f.load(fleet["base"], fleet["top1"])
    for name in ("base", "top1"):
        f.hold(fleet[name], "a0")
    mixed = []

    def look(tokens):
        beat = f.crew.agents["a0"].beat()
        mixed.extend(batch for batch in beat.batches if batch[3] == 2)

    for i in range(6):
        f.ask(fleet["base" if i % 2 else "top1"], PROMPT[i:], 16)
    f.finish(look)
    assert mixed, "one batch held rows of both models"
    queues = f.crew.agents["a0"].beat().queues
    assert sum(figures["rows"] for figures in queues.values()) >= 6 * 16
    assert all(figures["batches"] > 0 for figures in queues.values())


def test_an_answer_that_came_with_the_news_of_a_loss_is_counted_once(make, fleet):
    f = make(agents=2, prefill_chunk=16)
    f.load(fleet["base"], fleet["top1"])
    for name in ("base", "top1"):
        f.spread(fleet[name], "a0", "a1")
    told = f.engine._contact.letters
    f.engine._contact.letters = lambda: [
        letter for each in told() for letter in ([each, Lost("a0")] if isinstance(each, Output) else [each])
    ]
    asked = {f.ask(fleet[name], PROMPT[i:], 12): (name, PROMPT[i:]) for i, name in enumerate(["base", "top1"] * 2)}
    answers = f.finish()
    for id, (name, prompt) in asked.items():
        assert len(answers[id]) == 12
        assert_greedy(fleet[name], prompt, answers[id])


@pytest.mark.parametrize(
    "wrong", [{"slack": -1.0}, {"admission": "luck"}, {"provisioning": "luck"}, {"power": 0.0}, {"output_tokens": 0.0}]
)
def test_settings_that_cannot_be_are_refused_by_name(wrong):
    with pytest.raises(BadInputError, match=next(iter(wrong))):
        AgentSettings(**wrong)
