"""The knob of models with experts as a client of OpenAI's API turns it."""

from __future__ import annotations

import httpx
import openai
import pytest
from jsonschema import Draft202012Validator
from served_sparse import SIZES, save, sparse
from tiny_checkpoints import build

from quiltwork.core.names import ModelRef
from quiltwork.gateway import create_app
from quiltwork.serving import language_servable
from quiltwork.zoo import Zoo

from .conftest import running

PROMPT = "the king said that the dog was very happy and ran to the big tree"
CHAT = [{"role": "user", "content": "hello world"}]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experts")
    with Zoo(folder / "zoo") as zoo:
        zoo.add(save(sparse("mixtral"), folder / "mix"))
        zoo.add(save(build("llama-tied", 3, **SIZES), folder / "dense"))
    servable = language_servable({"zoo": str(folder / "zoo"), "threads": 1, "seed": 0})
    for name in ("mix", "dense"):
        servable.load(ModelRef(name))
    with running(create_app({"language": servable})) as base:
        yield base
    servable.close()


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
        yield made


def complete(client, model="mix", **fields):
    extra = {"ignore_eos": True, **fields}
    return client.completions.create(model=model, prompt=PROMPT, max_tokens=6, temperature=0, extra_body=extra)


@pytest.mark.parametrize(
    ("experts", "taken"),
    [(1, (1, 1)), (2, (2, 2)), (3, (3, 3)), ("adaptive", (1, 2)), ({"threshold": 0.1, "most": 2}, (1, 2)),
     ({"threshold": -1}, (1, 1)), (None, (2, 2))],
)  # fmt: skip
def test_a_completion_takes_as_many_experts_as_it_asks_for_and_says_so(client, experts, taken):
    reply = complete(client, experts=experts)
    assert taken[0] <= reply.usage.experts_per_token <= taken[1]
    assert reply.usage.completion_tokens == 6


def test_a_chat_does_too_and_a_stream_tells_it_at_its_end(client):
    extra = {"experts": 1, "ignore_eos": True}
    whole = client.chat.completions.create(model="mix", messages=CHAT, max_tokens=4, temperature=0, extra_body=extra)
    assert whole.usage.experts_per_token == 1
    chunks = list(
        client.chat.completions.create(
            model="mix", messages=CHAT, max_tokens=4, temperature=0, extra_body=extra, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    assert chunks[-1].usage.experts_per_token == 1
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content


def test_several_prompts_are_one_mean(client):
    reply = client.completions.create(model="mix", prompt=[PROMPT, "a"], max_tokens=3, extra_body={"experts": 3})
    assert reply.usage.experts_per_token == 3


def test_a_model_without_experts_has_none_to_tell_of(client):
    assert not hasattr(complete(client, "dense").usage, "experts_per_token")


@pytest.mark.parametrize(
    ("experts", "param"),
    [(0, "experts"), (5000, "experts"), (1.5, "experts"), ("many", "experts"), (True, "experts"), ([1], "experts"),
     (5, "experts"), ({"threshold": 3}, "experts.threshold"), ({"threshold": "low"}, "experts.threshold"),
     ({"most": 0}, "experts.most"), ({"least": 1}, "experts")],
)  # fmt: skip
@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_what_cannot_be_meant_is_one_error_that_names_the_field(url, path, experts, param):
    asked = {"prompt": "a"} if path == "completions" else {"messages": CHAT}
    reply = httpx.post(f"{url}/v1/{path}", json={"model": "mix", **asked, "experts": experts})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param
    assert "\n" not in reply.json()["error"]["message"]


def test_a_model_without_experts_refuses_the_knob(client):
    with pytest.raises(openai.BadRequestError, match="has no experts to choose from") as caught:
        complete(client, "dense", experts=1)
    assert caught.value.param == "experts"


def test_the_document_declares_the_knob_for_both_routes(url):
    document = httpx.get(f"{url}/openapi.json").json()
    for path in ("/v1/completions", "/v1/chat/completions"):
        schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        knob = Draft202012Validator(schema["properties"]["experts"])
        assert all(knob.is_valid(good) for good in (1, "adaptive", {"threshold": 0.1, "most": 2}, None))
        assert not any(knob.is_valid(bad) for bad in (0, "x", {"threshold": 2}, {"other": 1}, [1]))


def test_metrics_count_what_was_taken(client, url):
    complete(client, experts=1)
    text = httpx.get(f"{url}/metrics").text
    assert 'quiltwork:experts_taken_total{model_name="mix"}' in text
    assert 'quiltwork:expert_layer_tokens_total{model_name="mix"}' in text
    assert 'quiltwork:experts_taken_total{model_name="dense"}' not in text
