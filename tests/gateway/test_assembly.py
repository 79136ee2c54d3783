"""Adaptive assembly over HTTP: what the official client sends, and what it is told."""

from __future__ import annotations

import itertools
import json
from contextlib import contextmanager
from datetime import datetime

import openai
import pytest
from scripted_engine import ScriptedEngine, Shelf
from stand_ins import adapted
from tiny_text import byte_level, files

from quiltwork.core.errors import BadInputError
from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Latitude
from quiltwork.gateway import create_app
from quiltwork.gateway.tenants import KeyFile
from quiltwork.serving import LanguageModels
from quiltwork.serving.assembly import StandIns
from quiltwork.serving.policy.assembly import Outlook
from quiltwork.serving.text import load_codec

FILES = files(byte_level(), bos_token="<|bos|>", eos_token="<|eos|>")
CODEC = load_codec(FILES.get)
DEAR, CHEAP = Outlook(step_s=0.1, steps=8), Outlook(step_s=0.01, steps=8)


def said(text):
    return [*CODEC.encode(text, add_special_tokens=False), CODEC.id_of("<|eos|>")]


@pytest.fixture
def models():
    """``m`` says that the king ran, its cheaper adapted one that the dog did."""
    shelf = Shelf()
    exact, ref = shelf.put("m", FILES), shelf.put("m-adapted", FILES, version="v2")
    shelf.held[ref] = adapted(shelf.held[ref], shelf.held[exact])
    engine = ScriptedEngine(script={"v1": said("the king ran"), "v2": said("the dog ran")})
    engine.looks = {exact: DEAR, ref: CHEAP}
    ticks = itertools.count()
    host = LanguageModels(
        engine, lambda: shelf, stand_ins=StandIns(every=True),
        clock=lambda: float(next(ticks)), now=lambda: datetime(2026, 1, 2),
    )  # fmt: skip
    host.engine = engine
    for each in (exact, ref):
        host.load(each)
    yield host
    host.close()


@pytest.fixture
def ask(models, tmp_path, serving):
    """A client for a key with some budget."""
    file = KeyFile(tmp_path / "keys.json")

    @contextmanager
    def client(budget, tenant="red"):
        _, key = file.add(tenant, latitude=Latitude(quality_budget=budget))
        with (
            serving(create_app({"language": models}, keys=file)) as url,
            openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as made,
        ):
            yield made

    return client


def test_a_reply_says_under_the_name_that_was_asked_who_answered_and_what_that_costs(ask):
    with ask(0.01) as client:
        reply = client.completions.create(model="m", prompt="hello", max_tokens=20, temperature=0)
    assert (reply.model, reply.choices[0].text) == ("m", "the dog ran")
    assert reply.served["model"] == "m-adapted"
    assert [one["part"] for one in reply.served["substitutions"]] == ["layers.1.ffn"]
    told = reply.served["assembled"]
    assert (told["asked"], told["budget"], told["delta_loss"], told["agreement"]) == ("m", 0.01, 0.004, 0.98)


def test_without_a_budget_a_key_gets_the_exact_model_and_nothing_in_a_request_changes_that(ask):
    with ask(0.0) as client:
        for extra in ({}, {"quality_budget": 100}):
            reply = client.completions.create(model="m", prompt="hello", max_tokens=20, temperature=0, extra_body=extra)
            assert reply.choices[0].text == "the king ran"
            assert (reply.served["model"], reply.served["substitutions"]) == ("m", [])


def test_a_request_may_ask_for_the_exact_model(ask):
    with ask(0.01) as client:
        reply = client.completions.create(
            model="m", prompt="hello", max_tokens=20, temperature=0, extra_body={"quality_budget": 0}
        )
        assert reply.choices[0].text == "the king ran"
        with pytest.raises(openai.BadRequestError, match="quality_budget"):
            client.completions.create(model="m", prompt="hello", extra_body={"quality_budget": -1})


def test_a_stream_tells_it_at_its_end(ask):
    with ask(0.01) as client:
        chunks = list(
            client.completions.create(
                model="m", prompt="hello", max_tokens=20, temperature=0, stream=True,
                stream_options={"include_usage": True},
            )
        )  # fmt: skip
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == "the dog ran"
    assert chunks[-1].served["assembled"]["asked"] == "m"


def test_prompts_that_different_models_answered_are_told_apart(ask, models):
    turns = itertools.cycle([CHEAP, Outlook(step_s=9.0)])
    looks = models.engine.outlooks

    def turning(seq, chains):
        models.engine.looks[ModelRef("m-adapted")] = next(turns)
        return looks(seq, chains)

    models.engine.outlooks = turning
    with ask(0.01) as client:
        reply = client.completions.create(model="m", prompt=["a", "b"], max_tokens=20, temperature=0)
    answers = {"m": "the king ran", "m-adapted": "the dog ran"}
    assert [choice.text for choice in reply.choices] == [answers[one["model"]] for one in reply.served_each]
    assert sorted(one["model"] for one in reply.served_each) == ["m", "m-adapted"]


def test_without_keys_the_server_itself_says_what_may_be_lost(models, serving):
    for budget, text in ((0.0, "the king ran"), (0.01, "the dog ran")):
        with (
            serving(create_app({"language": models}, latitude=Latitude(quality_budget=budget))) as url,
            openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        ):
            reply = client.completions.create(model="m", prompt="hello", max_tokens=20, temperature=0)
        assert reply.choices[0].text == text


@pytest.mark.parametrize(("field", "value"), [("quality_budget", "much"), ("quality_budget", -1),
                                              ("quality_budget", True), ("least_agreement", 2)])  # fmt: skip
def test_a_budget_that_is_none_spoils_the_file_of_keys(tmp_path, field, value):
    file = KeyFile(tmp_path / "keys.json")
    file.add("red")
    rows = json.loads(file.path.read_text())
    rows["keys"][0][field] = value
    file.path.write_text(json.dumps(rows))
    with pytest.raises(BadInputError, match=field):
        KeyFile(file.path).keys()


def test_a_file_of_keys_from_before_allows_nothing(tmp_path):
    file = KeyFile(tmp_path / "keys.json")
    _, text = file.add("red", latitude=Latitude(quality_budget=0.01))
    rows = json.loads(file.path.read_text())
    for name in ("quality_budget", "least_agreement"):
        del rows["keys"][0][name]
    file.path.write_text(json.dumps(rows))
    assert KeyFile(file.path).visitor(f"Bearer {text}").quality_budget == 0.0
