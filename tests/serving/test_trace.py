"""A trace tells what a sequence went through, and nobody pays for a trace that was not asked for."""

import dataclasses
import itertools
import json
from datetime import datetime

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_llama import Chains, Desk

from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Caller, Input
from quiltwork.serving import Engine, EngineConfig, LanguageModels
from quiltwork.serving.trace import Trace
from quiltwork.zoo.segments import segment_id

PROMPT = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43, 38, 32, 79, 50, 28, 84, 19, 71, 69, 39, 93]
LONG = (PROMPT * 6)[:65]


def asked(d, twin, prompt=PROMPT, max_tokens=4, **fields):
    """A sequence that is to be explained, as the engine holds it."""
    return d.engine._sequences[d.ask(twin, prompt, max_tokens, explain=True, **fields)]


def test_hops_cover_the_chain_and_tell_who_rode_along(desk, family):
    base, top = family.base(), family.changed("top", "layers.3.", seed=4)
    d = desk()
    d.load(base, top)
    d.ask(top, PROMPT[1:], max_tokens=4)
    trace = asked(d, base).trace
    steps = 0
    while d.engine.has_work:
        d.engine.step()
        steps += 1
    told = trace.to_json()
    assert [(hop["first"], hop["last"]) for hop in told["hops"]] == [
        ("embed", "layers.2.ffn"), ("layers.3.attn", "layers.3.ffn"), ("head", "head"),
    ]  # fmt: skip
    assert sum(hop["blocks"] for hop in told["hops"]) == len(base.chain.links)
    shared, own, head = (hop["batches"] for hop in told["hops"])
    assert {hop["batches"]["count"] for hop in told["hops"]} == {steps}
    assert told["batches"]["count"] == 3 * steps
    assert (shared["models"], shared["sequences"]) == ({"mean": 2.0, "max": 2}, {"mean": 2.0, "max": 2})
    assert (own["models"], own["sequences"]) == ({"mean": 1.0, "max": 1}, {"mean": 1.0, "max": 1})
    assert head["models"]["max"] == 2, "the same head stands above both"
    assert shared["rows"] == {"mean": round((24 + 23 + 2 * (steps - 1)) / steps, 3), "max": 47}


def test_what_was_not_asked_for_reads_no_clock_and_watches_no_batch(desk, family):
    d = desk()
    d.load(family.base())
    d.engine.clock = None
    sequence = d.engine._sequences[d.ask(family.base(), PROMPT)]
    while d.engine.has_work:
        d.engine.step()
        assert d.engine._executor.watch is None
    assert sequence.trace is None
    assert d.engine._traces == {}


def test_found_pages_are_told_apart_by_who_computed_them(desk, family):
    base, head = family.base(), family.changed("head", "lm_head", seed=6)
    d = desk()
    d.load(base, head)

    def kv(twin, tenant="house", **fields):
        sequence = asked(d, twin, LONG, tenant=tenant, **fields)
        d.finish()
        return sequence.trace.to_json()["kv"]

    first = kv(base)
    assert (first["found"], first["computed"]) == ({"own": 0, "sibling": 0, "public": 0}, 5)
    again = kv(base)
    assert (again["found"], again["computed"]) == ({"own": 4, "sibling": 0, "public": 0}, 1)
    assert kv(head)["found"] == {"own": 0, "sibling": 4, "public": 0}
    assert kv(base, tenant="other")["found"] == {"own": 0, "sibling": 0, "public": 0}
    assert kv(base, tenant="red", public_prefix=True)["found"] == {"own": 0, "sibling": 0, "public": 0}
    assert kv(base, tenant="blue", public_prefix=True)["found"] == {"own": 0, "sibling": 0, "public": 4}


def test_pages_taken_up_half_way_are_partly_found(desk, family):
    base, top = family.base(), family.changed("top", "layers.3.", seed=4)
    d = desk()
    d.load(base, top)
    d.ask(base, LONG)
    d.finish()
    sequence = asked(d, top, LONG)
    d.finish()
    kv = sequence.trace.to_json()["kv"]
    assert kv["partly_found"] == {"own": 0, "sibling": 4, "public": 0}
    assert kv["computed"] == 5


def test_a_sequence_that_waits_for_anothers_pages_says_so(desk, family):
    base = family.base()
    d = desk()
    d.load(base)
    d.ask(base, LONG)
    sequence = asked(d, base, LONG)
    d.finish()
    kv = sequence.trace.to_json()["kv"]
    assert kv["waits"] > 0
    assert kv["found"]["own"] == 4


def test_preemption_is_told_and_what_it_cost(desk, family):
    page = 4 * 2 * 2 * 16 * 8 * 4
    base, head = family.base(), family.changed("head", "lm_head", seed=6)
    d = desk(kv_bytes=7 * page, max_num_seqs=4, prefix_cache=False)
    d.load(base, head)
    traces = [asked(d, twin, PROMPT[i:], 50).trace for i, twin in enumerate([base, head, base, head])]
    d.finish()
    told = [trace.to_json()["kv"] for trace in traces]
    assert sum(kv["preemptions"] for kv in told) == d.engine.stats().preemptions > 0
    for at, kv in enumerate(told):
        held = -(-(len(PROMPT) - at + 50 - 1) // 16)
        assert kv["computed"] - kv["recomputed"] == held, "without a cache every page is computed once, or again"
        assert (kv["recomputed"] > 0) == (kv["preemptions"] > 0)


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_pages_add_up_whatever_comes(family, data):
    base, head, top = family.base(), family.changed("head", "lm_head", seed=6), family.changed("t", "layers.3.", seed=4)

    clock = itertools.count()
    page = 4 * 2 * 2 * 16 * 8 * 4
    config = EngineConfig(kv_bytes=data.draw(st.integers(8, 30)) * page, max_num_seqs=3, prefill_chunk=16)
    d = Desk(Engine(config, lambda: float(next(clock))), family.bench)
    d.load(base, head, top)
    sequences = []
    for _ in range(data.draw(st.integers(1, 5))):
        twin = data.draw(st.sampled_from([base, head, top]))
        sequences.append(asked(d, twin, LONG[: data.draw(st.integers(1, 65))], data.draw(st.integers(1, 20))))
        for _ in range(data.draw(st.integers(0, 3))):
            d.engine.step()
    d.finish()
    for sequence in sequences:
        kv = sequence.trace.to_json()["kv"]
        held = -(-(len(sequence.tokens) - 1) // 16)
        assert sum(kv["found"].values()) + kv["computed"] >= held
        assert 0 <= kv["recomputed"] <= kv["computed"]
        if kv["preemptions"] == 0:
            assert sum(kv["found"].values()) + kv["computed"] == held
            assert kv["recomputed"] == 0
        told = sequence.trace.to_json()
        assert sum(hop["batches"]["count"] for hop in told["hops"]) == told["batches"]["count"]
        assert max(hop["batches"]["rows"]["max"] for hop in told["hops"]) == told["batches"]["rows"]["max"]


def test_the_stages_add_up_to_the_time_that_passed():
    now = [10.0]
    trace = Trace(lambda: now[0])
    for stage, seconds in (("prefill", 1), ("sampling", 2), ("delivery", 4), ("decode", 8), (None, 16)):
        now[0] += seconds
        trace.enter(stage)
    now[0] += 100
    trace.enter("decode")
    assert trace.to_json()["seconds"] == {
        "queue": 1, "prefill": 2, "decode": 16, "sampling": 4, "delivery": 8, "total": 31,
    }  # fmt: skip


def test_waiting_for_a_place_is_queueing(desk, family):
    base = family.base()
    d = desk(max_num_seqs=1)
    d.load(base)
    d.ask(base, PROMPT, max_tokens=9)
    trace = asked(d, base).trace
    d.engine.step()
    assert (trace.stage, trace.hops) == ("queue", {})
    d.finish()
    told = trace.to_json()["seconds"]
    assert told["queue"] > 0
    assert min(told["prefill"], told["decode"], told["sampling"]) > 0


# --- through the servable -----------------------------------------------------------------------------------------


@pytest.fixture
def served(family):
    clock = itertools.count()
    shelf = Chains(family.bench)
    engine = Engine(EngineConfig(max_num_seqs=6, prefill_chunk=16, step_tokens=64), lambda: float(next(clock)))
    servable = LanguageModels(engine, lambda: shelf, now=lambda: datetime(2026, 1, 1))
    for twin in (family.base(), family.changed("top", "layers.3.", seed=4)):
        servable.load(shelf.put(twin))
    yield servable
    servable.close()


def answer(served, model="base", prompt=PROMPT, **options):
    """The parts of a reply, checked against the task's schema."""
    options = {"temperature": 0, "max_tokens": 6, **options}
    parts = list(served.submit(ModelRef(model), Input("completion", {"prompt": prompt}), options, caller=Caller()))
    for part in parts:
        jsonschema.validate(json.loads(json.dumps(part.fields)), served.tasks()["completion"].output)
    return parts


def test_a_reply_explains_each_choice_in_its_last_part(served):
    *parts, last = answer(served, explain=True, n=2)
    assert last.last
    assert not any("explain" in part.fields for part in parts)
    choices = last.fields["explain"]["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]
    for choice in choices:
        assert choice["seconds"]["total"] == pytest.approx(sum(choice["seconds"].values()) / 2)
        assert choice["seconds"]["delivery"] > 0
        assert len(choice["hops"]) == last.fields["served"]["segments"]
        assert choice["batches"]["count"] == 3 * choice["hops"][0]["batches"]["count"]


def test_a_reply_that_was_not_asked_explains_nothing(served):
    assert all("explain" not in part.fields for part in answer(served))
    assert all("explain" not in part.fields for part in answer(served, explain=False))


def test_explaining_changes_no_token(served):
    def tokens(**options):
        return [part.fields["token_ids"] for part in answer(served, **options) if not part.last]

    assert tokens(explain=True) == tokens()


def test_nothing_to_compute_has_nothing_to_explain(served):
    assert answer(served, explain=True, max_tokens=0)[-1].fields["explain"] == {"choices": []}


def test_a_place_that_models_call_differently_stays_one_hop(desk, family):
    """A shorter model runs the upper layers of a longer one, under other names and other indices."""
    base = family.base()
    links = base.chain.links
    renamed = [dataclasses.replace(part, name=name) for name, part in zip(
        ("embed", "layers.0.attn", "layers.0.ffn", "layers.1.attn", "layers.1.ffn", "head"),
        (links[0], *links[5:9], links[-1]), strict=True,
    )]  # fmt: skip
    model = dataclasses.replace(base.chain.model, ref=ModelRef("short"), version="short", parts=tuple(renamed))
    short = dataclasses.replace(base, chain=dataclasses.replace(base.chain, model=model, links=tuple(renamed)))
    d = desk()
    d.load(base, short)
    long_trace = asked(d, base, max_tokens=6).trace
    d.engine.step()
    short_trace = asked(d, short, max_tokens=9).trace
    d.finish()
    for trace, twin in ((long_trace, base), (short_trace, short)):
        hops = trace.to_json()["hops"]
        assert [id for hop in hops for id in hop["segments"]] == [
            segment_id(key) for key in d.engine.stats().routes[twin.chain.model.ref]
        ]
        assert len({hop["batches"]["count"] for hop in hops}) == 1
        names = [part.name for part in twin.chain.links]
        assert all(names.index(hop["last"]) - names.index(hop["first"]) == hop["blocks"] - 1 for hop in hops)
