"""Drafts behind the one door: who gets which, what tenants see of them, what a reply tells."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import datetime

import pytest
from scripted_engine import ScriptedEngine, Shelf
from tiny_llama import Chains
from tiny_text import byte_level, files

from quiltwork.core.errors import BadInputError, NotFoundError, UnsupportedError
from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Caller, Input
from quiltwork.serving import Engine, EngineConfig, LanguageModels, language_servable
from quiltwork.serving.drafts import Drafts

PROMPT = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43, 38, 32, 79, 50, 28, 84, 19]
SMALL = ModelRef("small")
CALLER = Caller()


@pytest.fixture
def host(family):
    made = []

    def make(drafts, *twins, **config):
        ticks = itertools.count()
        shelf = Chains(family.bench)
        engine = Engine(EngineConfig(draft_tokens=4, **config), lambda: float(next(ticks)))
        servable = LanguageModels(
            engine, lambda: shelf, drafts=drafts, clock=lambda: float(next(ticks)), now=lambda: datetime(2026, 1, 1)
        )
        servable.engine, servable.shelf = engine, shelf
        made.append(servable)
        for twin in twins:
            shelf.put(twin)
        return servable

    yield make
    for servable in made:
        servable.close()


def ask(servable, model, prompt=PROMPT, caller=CALLER, **options):
    options = {"temperature": 0, "max_tokens": 20, **options}
    found, usage = [], None
    for part in servable.submit(ModelRef(model), Input("completion", {"prompt": prompt}), options, caller=caller):
        if part.last:
            usage = part.fields["usage"]
        else:
            found += part.fields["token_ids"]
    return found, usage


def test_one_draft_serves_all_models_and_is_not_one_of_them(host, family):
    twins = [family.base(), family.lora("lora", seed=3), family.base("small")]
    plain, ours = host(Drafts(), *twins), host(Drafts(SMALL), *twins)
    for servable in (plain, ours):
        for name in ("base", "lora"):
            servable.load(ModelRef(name))
    for name in ("base", "lora"):
        expected, without = ask(plain, name)
        found, usage = ask(ours, name)
        assert found == expected
        assert (without["accepted_prediction_tokens"], without["rejected_prediction_tokens"]) == (0, 0)
        assert usage["accepted_prediction_tokens"] + usage["rejected_prediction_tokens"] > 0
    assert [hosted.ref.name for hosted in ours.models()] == ["base", "lora"]
    with pytest.raises(NotFoundError):
        ask(ours, "small")
    figures = {sample.name: sample.value for sample in ours.samples()}
    assert figures["vllm:spec_decode_num_draft_tokens_total"] > 0
    assert figures["vllm:spec_decode_num_accepted_tokens_total"] > 0


def test_a_draft_asked_for_by_name_is_listed_and_goes_on_drafting_when_unloaded(host, family):
    ours = host(Drafts(SMALL), family.base(), family.base("small"))
    ours.load(ModelRef("base"))
    ours.load(SMALL)
    assert len(ours.models()) == 2
    assert ask(ours, "small")[1]["accepted_prediction_tokens"] == 0, "nothing drafts for itself"
    ours.unload(SMALL)
    assert [hosted.ref.name for hosted in ours.models()] == ["base"]
    assert ask(ours, "base")[1]["accepted_prediction_tokens"] > 0


def test_a_request_may_switch_it_off(host, family):
    ours = host(Drafts(SMALL), family.base(), family.base("small"))
    ours.load(ModelRef("base"))
    assert ask(ours, "base", speculation="off")[1]["accepted_prediction_tokens"] == 0
    assert ask(ours, "base", speculation=None)[1]["accepted_prediction_tokens"] > 0
    with pytest.raises(BadInputError, match="speculation"):
        ask(ours, "base", speculation=True)


def test_relaxed_is_for_callers_that_may_only_and_is_told_of(host, family):
    ours = host(Drafts(SMALL), family.base(), family.changed("small", "layers.3.", "layers.1.mlp.down", seed=21))
    ours.load(ModelRef("base"))
    red, blue = Caller("red", relaxed_speculation=True), Caller("blue")
    expected, exact = ask(ours, "base")
    for caller in (Caller(), blue):
        with pytest.raises(UnsupportedError, match=r"relaxed.*not allowed"):
            ask(ours, "base", caller=caller, speculation="relaxed")
    assert ask(ours, "base", caller=red) == (expected, exact), "who may and does not ask gets the exact answer"
    found, usage = ask(ours, "base", caller=red, speculation="relaxed", relaxed_share=0.01)
    assert found != expected
    assert 0 < usage["relaxed_prediction_tokens"] <= usage["accepted_prediction_tokens"]
    figures = {sample.name: sample.value for sample in ours.samples()}
    assert figures["quiltwork:spec_decode_num_relaxed_tokens_total"] == usage["relaxed_prediction_tokens"]
    strict, usage = ask(ours, "base", caller=red, speculation="relaxed", relaxed_share=1)
    assert strict == expected
    assert usage["relaxed_prediction_tokens"] == exact["relaxed_prediction_tokens"] == 0
    assert ask(ours, "base", caller=blue)[0] == expected, "nor does it stay on for others"


@pytest.mark.parametrize(
    "options",
    [
        {"speculation": "relaxed", "relaxed_share": 0},
        {"speculation": "relaxed", "relaxed_share": 1.1},
        {"speculation": "relaxed", "relaxed_share": "half"},
        {"relaxed_share": 0.5},
        {"speculation": "off", "relaxed_share": 0.5},
    ],
)
def test_a_share_is_above_0_and_at_most_1_and_for_relaxed_only(host, family, options):
    ours = host(Drafts(SMALL), family.base(), family.base("small"))
    ours.load(ModelRef("base"))
    with pytest.raises(BadInputError, match="relaxed_share"):
        ask(ours, "base", caller=Caller(relaxed_speculation=True), **options)


def test_a_draft_named_for_a_base_is_that_of_its_variants_only(host, family):
    shelf = Shelf()
    shelf.put("a")
    shelf.put("a-lora", base=ModelRef("a"))
    shelf.put("b")
    drafts = Drafts(named={ModelRef("a"): SMALL})
    found = {name: drafts.named_for(shelf.model(ModelRef(name)), shelf.model) for name in ("a", "a-lora", "b")}
    assert found == {"a": SMALL, "a-lora": SMALL, "b": None}


@pytest.fixture
def scripted():
    made = []

    def make(drafts, shelf):
        servable = LanguageModels(ScriptedEngine(), lambda: shelf, drafts=drafts, now=lambda: datetime(2026, 1, 2))
        servable.engine = servable._engine
        made.append(servable)
        return servable

    yield make
    for servable in made:
        servable.close()


def test_other_tokens_are_refused_where_the_draft_was_named_and_passed_over_where_it_is_for_all(scripted):
    text, other = files(byte_level()), files(byte_level(size=300))
    shelf = Shelf()
    model = shelf.put("m", text)
    shelf.put("small", other)
    with pytest.raises(BadInputError, match="small cannot draft for m: it has another tokenizer"):
        scripted(Drafts(named={model: SMALL}), shelf).load(model)
    servable = scripted(Drafts(SMALL), shelf)
    servable.load(model)
    assert servable.engine.drafts[model] is None
    shelf.put("small", text)
    servable = scripted(Drafts(SMALL), shelf)
    servable.load(model)
    assert servable.engine.drafts[model] == SMALL


def test_a_tenants_own_model_drafts_for_that_tenant_only(scripted):
    shelf = Shelf()
    public, small = shelf.put("m"), shelf.put("small", tenant="acme")
    private = shelf.put("m", tenant="acme")
    servable = scripted(Drafts(small), shelf)
    servable.load(public)
    servable.load(private)
    assert servable.engine.drafts == {public: None, private: small}


def test_a_model_of_another_size_of_vocabulary_does_not_draft(host, family):
    ours = host(Drafts(named={ModelRef("base"): SMALL}), family.base())
    twin = family.base("small")
    *links, head = twin.chain.links
    head = replace(head, block=replace(head.block, arch={**head.block.arch, "vocab_size": 95}))
    ours.shelf.put(replace(twin, chain=replace(twin.chain, links=(*links, head))))
    with pytest.raises(BadInputError, match="95 tokens"):
        ours.load(ModelRef("base"))


@pytest.mark.parametrize("value", [{"a": 1}, ["a"], "a"])
def test_a_malformed_setting_is_named(value, tmp_path):
    with pytest.raises(BadInputError, match="drafts"):
        language_servable({"zoo": str(tmp_path), "drafts": value})


def test_an_explained_reply_tells_how_its_draft_fared_and_names_no_draft(host, family):
    servable = host(Drafts(SMALL), family.base(), family.base("small"))
    servable.load(ModelRef("base"))
    wish = {"temperature": 0, "max_tokens": 20, "explain": True}
    for asked in (wish, {**wish, "speculation": "off"}):
        stream = servable.submit(ModelRef("base"), Input("completion", {"prompt": PROMPT}), asked, caller=Caller())
        last = list(stream)[-1].fields
        (choice,) = last["explain"]["choices"]
        usage = last["usage"]
        if asked is wish:
            accepted, rejected = usage["accepted_prediction_tokens"], usage["rejected_prediction_tokens"]
            assert choice["speculation"] == {"drafted": accepted + rejected, "accepted": accepted}
            assert accepted > 0
        else:
            assert "speculation" not in choice
        assert choice["kv"]["computed"] + sum(choice["kv"]["found"].values()) == -(-(len(PROMPT) + 19) // 16)
        seconds = choice["seconds"]
        assert sum(seconds.values()) == pytest.approx(2 * seconds["total"])
    told = servable.explain(ModelRef("base"), tenant=None)
    assert all(segment["shared_with"] == {"models": [], "hidden": 0} for segment in told["segments"])
