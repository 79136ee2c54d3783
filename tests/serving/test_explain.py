"""A host explains its loaded models as they are served now."""

import dataclasses
import json
from datetime import datetime

import pytest
from tiny_llama import Chains

from quiltwork.core.errors import NotFoundError
from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Caller, Explains, Input
from quiltwork.serving import Engine, EngineConfig, LanguageModels
from quiltwork.zoo.types import Substitution


@pytest.fixture
def served(family):
    shelf = Chains(family.bench)
    engine = Engine(EngineConfig(), lambda: 0.0)
    alias = {ModelRef("first"): ModelRef("base")}
    servable = LanguageModels(engine, lambda: shelf, aliases=alias, now=lambda: datetime(2026, 1, 1))
    servable.shelf = shelf
    twins = family.base(), family.lora("lora", seed=2), family.changed("top", "layers.3.", seed=4, tenant="alice")
    for twin in twins:
        servable.load(shelf.put(twin))
    yield servable
    servable.close()


def cut(told):
    return [(s["first"], s["last"], s["shared_with"]["models"], s["shared_with"]["hidden"]) for s in told["segments"]]


def test_parts_and_segments_are_those_of_the_engine_now(served):
    assert isinstance(served, Explains)
    told = served.explain(ModelRef("base"), tenant=None)
    assert cut(told) == [
        ("embed", "embed", ["lora", "alice::top"], 0),
        ("layers.0.attn", "layers.2.ffn", ["lora", "alice::top"], 0),
        ("layers.3.attn", "layers.3.ffn", ["lora"], 0),
        ("head", "head", ["lora", "alice::top"], 0),
    ]
    assert json.loads(json.dumps(told)) == told
    reply = served.submit(
        ModelRef("base"), Input("completion", {"prompt": [3, 4, 5]}), {"max_tokens": 2, "explain": True},
        caller=Caller(),
    )  # fmt: skip
    (choice,) = list(reply)[-1].fields["explain"]["choices"]
    assert [id for hop in choice["hops"] for id in hop["segments"]] == [
        segment["segment"] for segment in told["segments"]
    ]
    served.unload(ModelRef("lora"))
    served.unload(ModelRef("top", "alice"))
    assert cut(served.explain(ModelRef("base"), tenant=None)) == [("embed", "head", [], 0)]


def test_a_tenant_is_told_of_others_as_a_number(served):
    told = served.explain(ModelRef("base"), tenant="bob")
    assert told["parts"][0]["shared_with"] == {"models": ["lora"], "hidden": 1}
    assert cut(told)[0] == ("embed", "embed", ["lora"], 1)
    assert "alice" not in json.dumps(told)
    assert "top" not in json.dumps(told)
    hers = served.explain(ModelRef("top", "alice"), tenant="alice")
    assert hers["own_bytes"] == sum(part["bytes"] for part in hers["parts"] if part["part"].startswith("layers.3."))


@pytest.mark.parametrize("ref", [ModelRef("nobody"), ModelRef("top", "alice")])
def test_what_is_not_loaded_or_not_ones_own_is_one_clear_error(served, ref):
    with pytest.raises(NotFoundError, match="is not loaded"):
        served.explain(ref, tenant="bob")


def test_an_unloaded_model_is_not_explained_any_more(served):
    served.unload(ModelRef("lora"))
    with pytest.raises(NotFoundError, match="lora is not loaded"):
        served.explain(ModelRef("lora"), tenant=None)


def test_an_alias_is_explained_as_the_model(served):
    assert served.explain(ModelRef("first"), tenant=None) == served.explain(ModelRef("base"), tenant=None)


def test_a_new_version_is_explained_from_the_moment_it_serves(served, family):
    served.load(served.shelf.put(family.changed("base", "layers.", seed=9), version="2"))
    told = served.explain(ModelRef("base"), tenant=None)
    assert told["version"] == "2"
    assert sum(segment["blocks"] for segment in told["segments"]) == len(told["parts"])
    assert told["parts"][1]["shared_with"] == {"models": [], "hidden": 0}


def test_substitutions_are_told_with_their_cost_and_name_nobody_hidden(served, family):
    twin = family.base("adapted")
    swap = Substitution("layers.1.attn", ("a",), ("b",), ModelRef("top", "alice"), 0.002, 0.01, 0.98, 0.002, 0.98, 0.01,
                        "ab" * 32)  # fmt: skip
    model = dataclasses.replace(twin.chain.model, substitutions=(swap,))
    served.load(served.shelf.put(dataclasses.replace(twin, chain=dataclasses.replace(twin.chain, model=model))))
    (told,) = served.explain(ModelRef("adapted"), tenant=None)["substitutions"]
    assert (told["part"], told["source"], told["delta_loss"]) == ("layers.1.attn", "alice::top", 0.002)
    (told,) = served.explain(ModelRef("adapted"), tenant="bob")["substitutions"]
    assert told["source"] is None
    assert served.explain(ModelRef("base"), tenant=None)["substitutions"] == []
    rows = {row["model"]: row["substituted"] for row in served.status()["models"]}
    assert rows == {"base": [], "lora": [], "alice::top": [], "adapted": ["layers.1.attn"]}
