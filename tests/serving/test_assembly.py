"""Adaptive assembly behind the one door: exact unless tenant, measurement and cost all say otherwise."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace

import pytest
from scripted_engine import ScriptedEngine, Shelf
from stand_ins import adapted
from tiny_llama import Chains
from tiny_text import byte_level, files

from quiltwork.core.errors import BadInputError
from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Caller, Input
from quiltwork.serving import Engine, EngineConfig, LanguageModels, language_servable
from quiltwork.serving.assembly import StandIns
from quiltwork.serving.policy.assembly import Outlook

EXACT, ADAPTED = ModelRef("m"), ModelRef("m-adapted")
PROMPT = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43, 38, 32, 79, 50, 28, 84, 19]
EVERY = StandIns(every=True)
DEAR, CHEAP = Outlook(prompt_s=1.0, step_s=0.1, steps=8), Outlook(prompt_s=0.9, step_s=0.01, steps=8)
ALLOWED = Caller(quality_budget=0.01, least_agreement=0.9)


@pytest.fixture
def host():
    """A host of ``m`` and of what is made of it, over an engine whose figures say that the adapted one is cheaper."""
    made = []

    def make(stand_ins=EVERY, *, looks=None, tenant="public", load=(EXACT,), absent_s=None, **told):
        engine = ScriptedEngine(script={"v1": [5, 6, 7], "v2": [8, 9, 10]})
        shelf = Shelf()
        exact = shelf.model(shelf.put("m"))
        ref = shelf.put("m-adapted", version="v2", tenant=tenant)
        shelf.held[ref] = adapted(shelf.held[ref], exact, **told)
        engine.looks = {EXACT: DEAR, ref: CHEAP} if looks is None else looks
        ticks = itertools.count()
        if absent_s is not None:
            engine.residency = SimpleNamespace(load_seconds=lambda ref: absent_s, drafts=set(), pinned=frozenset())
        servable = LanguageModels(
            engine, lambda: shelf, stand_ins=stand_ins,
            clock=lambda: float(next(ticks)), now=lambda: datetime(2026, 1, 2),
        )  # fmt: skip
        servable.engine, servable.shelf, servable.adapted = engine, shelf, ref
        made.append(servable)
        for each in (*load, ref):
            servable.load(each)
        return servable

    yield make
    for servable in made:
        servable.engine.gate.set()
        servable.close()


def ask(servable, model=EXACT, caller=ALLOWED, prompt=(1, 2, 3), **options):
    """Token ids of every choice, and the last part's fields."""
    options = {"temperature": 0, "max_tokens": 3, **options}
    tokens, last = {}, None
    for part in servable.submit(model, Input("completion", {"prompt": list(prompt)}), options, caller=caller):
        if part.last:
            last = part.fields
        else:
            tokens.setdefault(part.fields["index"], []).extend(part.fields["token_ids"])
    return [tokens[index] for index in sorted(tokens)], last


def test_exact_unless_the_tenant_says_otherwise_whatever_it_would_save(host):
    servable = host()
    for caller in (Caller(), Caller("alice"), Caller(quality_budget=0.0)):
        found, last = ask(servable, caller=caller, quality_budget=100)
        assert found == [[5, 6, 7]]
        assert last["served"]["model"] == "m"
        assert "assembled" not in last["served"]
    assert ask(servable)[0] == [[8, 9, 10]]


def test_a_reply_says_who_answered_for_whom_and_at_what_cost(host):
    found, last = ask(host())
    served = last["served"]
    assert found == [[8, 9, 10]]
    assert (served["model"], served["version"]) == ("m-adapted", "v2")
    assert [one["part"] for one in served["substitutions"]] == ["layers.1.ffn"]
    assert served["assembled"] == {
        "asked": "m", "budget": 0.01, "delta_loss": 0.004, "kl": 0.002, "agreement": 0.98,
    }  # fmt: skip


def test_asked_for_by_name_nothing_is_assembled(host):
    servable = host()
    last = ask(servable, servable.adapted)[1]
    assert last["served"]["model"] == "m-adapted"
    assert "assembled" not in last["served"]


def test_a_stand_in_answers_only_where_it_pays(host):
    assert ask(host(looks={EXACT: DEAR, ADAPTED: DEAR}))[0] == [[5, 6, 7]]
    assert ask(host(looks={EXACT: DEAR, ADAPTED: replace(CHEAP, load_s=9.0)}))[0] == [[5, 6, 7]]
    assert ask(host(looks={EXACT: replace(DEAR, queue_s=1.0), ADAPTED: DEAR}))[0] == [[8, 9, 10]]
    assert ask(host(looks={}))[0] == [[5, 6, 7]], "nothing has been measured yet"


def test_an_exact_model_that_is_not_in_memory_is_charged_for_loading(host):
    same = {EXACT: DEAR, ADAPTED: DEAR}
    assert ask(host(looks=same, absent_s=0.0))[0] == [[5, 6, 7]]
    assert ask(host(looks=same, absent_s=3.0))[0] == [[8, 9, 10]]


@pytest.mark.parametrize(
    ("tenants", "asked", "served"),
    [(0.01, None, "m-adapted"), (0.01, 0.005, "m-adapted"), (0.01, 0.003, "m"), (0.01, 0, "m"), (0.003, 100, "m"),
     (0.003, None, "m"), (0.0, 100, "m")],
)  # fmt: skip
def test_a_request_may_lower_its_tenants_budget_and_never_raise_it(host, tenants, asked, served):
    last = ask(host(), caller=Caller(quality_budget=tenants), quality_budget=asked)[1]
    assert last["served"]["model"] == served
    if served != "m":
        assert last["served"]["assembled"]["budget"] == min(tenants, tenants if asked is None else asked)


@pytest.mark.parametrize("nats", [-1, 101, "much", True, float("nan")])
def test_a_budget_that_is_none_is_refused(host, nats):
    with pytest.raises(BadInputError) as caught:
        ask(host(), quality_budget=nats)
    assert caught.value.where == "quality_budget"


@pytest.mark.parametrize(
    "told",
    [
        {"loss": 0.011},
        {"loss": float("nan")},
        {"loss": None},
        {"agreement": 0.89},
        {"version": "v0"},
        {"family": "llama", "base": EXACT} | {"measured": {"parent_versions": {"m": "v1"}}},
    ],
)
def test_only_what_was_judged_within_the_budget_against_this_very_version_stands_in(host, told):
    if "measured" in told:
        servable = host()
        unjudged = replace(servable.shelf.held[ADAPTED], measured=told["measured"], version="v3")
        servable.shelf.held[ADAPTED] = unjudged
        servable.load(ADAPTED)
    else:
        servable = host(**told)
    assert ask(servable)[1]["served"]["model"] == "m"


def test_an_equal_function_needs_no_text_but_a_budget_all_the_same(host):
    servable = host(text="")
    assert ask(servable)[1]["served"]["assembled"]["delta_loss"] == 0.0
    assert ask(servable, caller=Caller())[1]["served"]["model"] == "m"


def test_what_was_adapted_for_one_tenant_answers_no_other(host):
    servable = host(tenant="alice")
    budget = {"quality_budget": 0.01, "least_agreement": 0.9}
    assert ask(servable, caller=Caller("alice", **budget))[1]["served"]["model"] == "alice::m-adapted"
    for other in ("bob", "public"):
        last = ask(servable, caller=Caller(other, **budget), explain=True)[1]
        assert last["served"]["model"] == "m"
        assert "alice" not in json.dumps(last)


def test_after_an_upgrade_of_the_exact_model_its_old_adaptation_answers_no_more(host):
    servable = host()
    assert ask(servable)[1]["served"]["model"] == "m-adapted"
    servable.shelf.put("m", version="v9")
    servable.load(EXACT)
    assert (ask(servable)[1]["served"]["model"], ask(servable)[1]["served"]["version"]) == ("m", "v9")


def test_only_those_named_may_stand_in_and_only_adapted_ones_may_be_named(host):
    assert ask(host(StandIns(frozenset({ADAPTED}))))[0] == [[8, 9, 10]]
    assert ask(host(StandIns(frozenset({ModelRef("other")}))))[0] == [[5, 6, 7]]
    assert ask(host(StandIns()))[0] == [[5, 6, 7]]
    with pytest.raises(BadInputError, match="m is not an adapted model"):
        host(StandIns(frozenset({EXACT})))


def test_one_that_reads_text_in_another_way_does_not_stand_in(host):
    codec = files(byte_level(), bos_token="<|bos|>", eos_token="<|eos|>")
    servable = host()
    for change in ({"config": {"eos_token_id": 2}}, {"files": {name: name for name in codec}}):
        servable.shelf.files |= dict(codec)
        changed = replace(servable.shelf.held[ADAPTED], version=f"v2-{next(iter(change))}", **change)
        servable.shelf.held[ADAPTED] = changed
        servable.load(ADAPTED)
        assert ask(servable)[1]["served"]["model"] == "m"


def test_one_that_is_gone_does_not_stand_in(host):
    servable = host()
    servable.unload(ADAPTED)
    assert ask(servable)[0] == [[5, 6, 7]]


def test_neither_model_is_kept_by_a_request_that_has_ended(host):
    servable = host()
    assert ask(servable)[1]["served"]["model"] == "m-adapted"
    servable.unload(EXACT)
    servable.unload(ADAPTED)
    assert servable.models() == [], "one that still had a request would be draining"


def test_all_choices_of_a_request_come_from_one_chain(host):
    found, last = ask(host(), n=3)
    assert found == [[8, 9, 10]] * 3
    assert last["served"]["model"] == "m-adapted"


def test_with_another_scale_of_its_adapter_nobody_was_judged(host):
    assert ask(host(), adapter_scale=0.5)[1]["served"]["model"] == "m"


def test_it_is_counted_under_the_name_that_was_asked_for(host):
    servable = host()
    ask(servable)
    ask(servable, caller=Caller())
    counted = [s for s in servable.samples() if s.name == "quiltwork:assembled_requests_total"]
    assert {(s.labels["model_name"], s.value) for s in counted} == {("m", 1)}


# --- the real engine -------------------------------------------------------------------------------------------------


@pytest.fixture
def real(family):
    """The real engine with ``m``, ``m-adapted`` (of which one block is the base's) and ``base``, and figures that say
    that the adapted one is cheaper."""
    made = []

    def make(looks=None, **config):
        shelf, ticks = Chains(family.bench), itertools.count()
        base = family.base()
        tuned = family.changed("m", "layers.1.mlp", "layers.2.", seed=5)
        swapped = family.changed("m-adapted", "layers.1.mlp", "layers.2.", seed=5)
        parts = tuple(
            theirs if theirs.name == "layers.1.ffn" else ours
            for ours, theirs in zip(swapped.chain.links, base.chain.links, strict=True)
        )
        for twin in (base, tuned, swapped):
            shelf.put(twin)
        chain = shelf.chains[ADAPTED]
        model = adapted(replace(chain.model, parts=parts), shelf.chains[EXACT].model)
        shelf.chains[ADAPTED] = replace(chain, model=model, links=parts)
        engine = Engine(EngineConfig(**config), lambda: float(next(ticks)))
        if looks is not None:
            engine.outlooks = lambda seq, chains: looks
        servable = LanguageModels(
            engine, lambda: shelf, stand_ins=EVERY, clock=lambda: float(next(ticks)), now=lambda: datetime(2026, 1, 2)
        )
        servable.engine = engine
        made.append(servable)
        for ref in (EXACT, ADAPTED, ModelRef("base")):
            servable.load(ref)
        return servable

    yield make
    for servable in made:
        servable.close()


PAYS = {EXACT: DEAR, ADAPTED: CHEAP}


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.9, "seed": 7}, {"temperature": 0.9, "seed": 7, "n": 2, "logprobs": 1}]
)
def test_the_answer_is_that_of_the_stand_in_asked_for_by_name(real, options):
    options = {"max_tokens": 24, **options}
    assembled, last = ask(real(PAYS), prompt=PROMPT, **options)
    by_name, _ = ask(real(PAYS), ADAPTED, prompt=PROMPT, **options)
    exact, _ = ask(real(PAYS), prompt=PROMPT, caller=Caller(), **options)
    assert last["served"]["model"] == "m-adapted"
    assert assembled == by_name != exact


def test_it_stays_with_its_chain_when_it_is_preempted_and_the_figures_turn(real):
    looks = dict(PAYS)
    page_bytes = 4 * 2 * 2 * 16 * 8 * 4  # attention blocks, keys and values, heads, tokens, features, bytes
    servable = real(looks, memory_bytes=None, kv_bytes=6 * page_bytes, prefix_cache=False)
    streams = []
    for index in range(4):
        prompt = [*PROMPT[:16], 1 + index]
        options = {"temperature": 0.8, "seed": index, "max_tokens": 30, "explain": True}
        input = Input("completion", {"prompt": prompt})
        streams.append((prompt, options, servable.submit(EXACT, input, options, caller=ALLOWED)))
    answers = [list(stream) for _, _, stream in streams]
    looks[ADAPTED] = replace(CHEAP, queue_s=100.0)
    assert servable.engine.stats().preemptions > 0
    for (prompt, options, _), parts in zip(streams, answers, strict=True):
        assert parts[-1].fields["served"]["model"] == "m-adapted"
        made = [token for part in parts[:-1] for token in part.fields["token_ids"]]
        assert [made] == ask(servable, ADAPTED, prompt=prompt, **options)[0]
    assert ask(servable, prompt=PROMPT)[1]["served"]["model"] == "m"


def test_cached_pages_are_shared_below_the_first_other_block_and_never_above(real):
    looks = dict(PAYS)
    servable = real(looks)
    prompt = PROMPT * 3
    fresh = ask(real(PAYS), ADAPTED, prompt=prompt, max_tokens=8)[0]
    exact, _ = ask(servable, prompt=prompt, max_tokens=8, caller=Caller())
    assembled, last = ask(servable, prompt=prompt, max_tokens=8, explain=True)
    assert last["served"]["model"] == "m-adapted"
    assert assembled == fresh != exact
    told = last["explain"]["choices"][0]["kv"]
    assert sum(told["found"].values()) == 0, "no page is whole: they part ways in layer 1"
    assert told["partly_found"]["sibling"] == 3
    again, last = ask(servable, prompt=prompt, max_tokens=8, explain=True)
    assert (again, sum(last["explain"]["choices"][0]["kv"]["found"].values())) == (fresh, 3)
    assert ask(servable, prompt=prompt, max_tokens=8, caller=Caller())[0] == exact


def test_an_explained_reply_says_why(real):
    servable = real()
    for name in ("base", "m"):
        ask(servable, ModelRef(name), prompt=PROMPT, max_tokens=2)
    last = ask(servable, prompt=PROMPT, explain=True)[1]
    told = last["explain"]["choices"][0]["assembly"]
    assert (told["asked"], told["served"], told["budget"]) == ("m", last["served"]["model"], 0.01)
    assert [(c["model"], c["delta_loss"]) for c in told["candidates"]] == [("m", 0.0), ("m-adapted", 0.004)]
    json.dumps(told, allow_nan=False)
    assert "assembly" not in ask(servable, caller=Caller(), explain=True)[1]["explain"]["choices"][0]


def test_the_pages_that_are_there_are_part_of_the_outlook(real):
    servable = real()
    prompt = PROMPT * 3
    ask(servable, ADAPTED, prompt=prompt, max_tokens=1)
    told = ask(servable, prompt=prompt, explain=True)[1]["explain"]["choices"][0]["assembly"]
    assert [c["found"] for c in told["candidates"]] == [0, 48]


@pytest.mark.parametrize("value", ["m-adapted", [1], {"a": "b"}])
def test_a_malformed_setting_is_named(value, tmp_path):
    with pytest.raises(BadInputError) as caught:
        language_servable({"zoo": str(tmp_path), "assemble": value})
    assert caught.value.where == "assemble"
