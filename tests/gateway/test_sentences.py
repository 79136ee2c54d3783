"""Sentence models through the door: OpenAI's embeddings with its own client, and similarity as any other task."""

from __future__ import annotations

import base64
import urllib.error
import urllib.request

import httpx
import numpy as np
import openai
import pytest
from tiny_sentences import LONGEST, WIDTH, tiny_host, tiny_zoo

from quiltwork.core.names import ModelRef
from quiltwork.gateway import create_app

A, OWN = ModelRef("words"), ModelRef("own", "blue")


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    made = tiny_host(tiny_zoo(tmp_path_factory.mktemp("sentences"), A, OWN))
    made.load(A)
    made.load(OWN)
    yield made
    made.close()


@pytest.fixture
def sentences(host, serving):
    with serving(create_app({"text": host})) as url:
        yield url


@pytest.fixture
def client(sentences):
    with openai.OpenAI(base_url=f"{sentences}/v1", api_key="none", max_retries=0) as made:
        yield made


def post(url, path, body, **headers):
    return httpx.post(f"{url}{path}", json=body, headers=headers, timeout=30)


def test_the_client_gets_vectors_in_the_order_asked_for(client):
    reply = client.embeddings.create(model="words", input=["one two", "three", "one two"], user="somebody")
    assert [item.index for item in reply.data] == [0, 1, 2]
    assert reply.data[0].embedding == reply.data[2].embedding != reply.data[1].embedding
    assert len(reply.data[0].embedding) == WIDTH
    assert (reply.usage.prompt_tokens, reply.usage.total_tokens) == (5, 5)
    assert reply.model == "words"
    assert client.models.retrieve("words").tasks == ["embeddings", "similarity"]


def test_base64_is_the_same_numbers(client):
    plain = client.embeddings.create(model="words", input="one", encoding_format="float").data[0].embedding
    packed = client.embeddings.create(model="words", input="one", encoding_format="base64").data[0].embedding
    assert np.frombuffer(base64.b64decode(packed), "<f4").tolist() == plain
    assert client.embeddings.create(model="words", input="one").data[0].embedding == plain  # base64 underneath


def test_what_was_cut_or_not_known_is_in_the_reply(client):
    reply = client.embeddings.create(model="words", input=["fine", "w " * (LONGEST + 1), "xx"])
    assert (reply.truncated, reply.unknown) == ([1], [2])
    assert not any(reply.data[2].embedding)


def test_shorter_vectors(client):
    assert len(client.embeddings.create(model="words", input="one", dimensions=4).data[0].embedding) == 4


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"input": ""}, "input", "is empty"),
        ({"input": ["a", ""]}, "input[1]", "is empty"),
        ({"input": []}, "input", "1 to 2048"),
        ({"input": ["a"] * 2049}, "input", "1 to 2048"),
        ({"input": [1, 2]}, "input", "token ids"),
        ({"input": [[1, 2], [3]]}, "input", "token ids"),
        ({"input": 5}, "input", "not valid"),
        ({"input": "a", "dimensions": 3}, "dimensions", "it has 4, 8"),
        ({"input": "a", "dimensions": 10**30}, "dimensions", "maximum"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "hex"),
        ({"input": "a", "prompt": "b"}, "prompt", "not a field"),
    ],
)
def test_what_is_wrong_is_an_error_of_openais_shape(client, fields, param, said):
    with pytest.raises(openai.BadRequestError, match=said) as caught:
        client.post("/embeddings", body={"model": "words", **fields}, cast_to=object)
    assert caught.value.body["param"] == param
    assert caught.value.body["type"] == "invalid_request_error"


def test_other_errors_keep_their_shape_too(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model="nobody", input="a")
    assert caught.value.body["code"] == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="does not do completion"):
        client.completions.create(model="words", prompt="a")


def test_pairs_and_matrices_over_http(sentences):
    reply = post(sentences, "/v1/similarity", {"model": "words", "pairs": [["it is", "it is not"]], "explain": True})
    (pair,) = reply.json()["pairs"]
    assert pair["polarity"]["kind"] == "opposite"
    assert pair["rating"]["value"] == 4 * pair["score"]
    assert pair["explain"] == {"aligned": ["is", "it"]}
    reply = post(sentences, "/v1/similarity", {"model": "words", "a": ["one", "xx"], "b": ["one", "two"]}).json()
    assert reply["matrix"][0][0] == 1.0
    assert reply["matrix"][1] == [None, None]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "pairs"),
        ({"pairs": [["a"]]}, "pairs[0]"),
        ({"pairs": [["a", 1]]}, "pairs[0][1]"),
        ({"a": ["x"]}, "a"),
        ({"a": ["x"], "b": ["y"], "explain": True}, "explain"),
        ({"a": ["x"], "b": ["y"], "metric": "dot"}, "metric"),
    ],
)
def test_a_wrong_similarity_request_names_its_field(sentences, body, param):
    reply = post(sentences, "/v1/similarity", {"model": "words", **body})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/similarity"])
def test_a_body_that_is_not_utf8_is_a_clear_error(sentences, path):
    request = urllib.request.Request(
        sentences + path, data=b'{"model": "words", "input": "\xff\xfe"}', headers={"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    assert caught.value.code == 400


@pytest.mark.parametrize("text", ["\0\x01\x1b[31m", "μ-opioid", "ﬁ", "z" * 100_000, "word " * 20_000, "\U0001f9ec"])
def test_odd_texts_have_vectors_like_others(client, text):
    reply = client.embeddings.create(model="words", input=text)
    assert len(reply.data[0].embedding) == WIDTH
    assert np.isfinite(reply.data[0].embedding).all()


def test_tenants_see_their_own_models_only(host, keys, serving):
    with serving(create_app({"text": host}, keys=keys[0])) as url:
        body = {"model": "own", "input": "one"}
        as_tenant = {who: post(url, "/v1/embeddings", body, Authorization=f"Bearer {keys[1][who]}") for who in keys[1]}
        assert {who: reply.status_code for who, reply in as_tenant.items()} == {"red": 404, "blue": 200, "chief": 404}
        assert post(url, "/v1/similarity", {"model": "own", "pairs": [["a", "b"]]}).status_code == 401


def test_metrics_and_the_page_know_of_them(client, sentences):
    client.embeddings.create(model="words", input="one")
    assert 'quiltwork_text_requests_total{model="words",task="embeddings"' in httpx.get(f"{sentences}/metrics").text
    rows = httpx.get(f"{sentences}/v1/status").json()["servables"]["text"]["models"]
    assert [row["model"] for row in rows] == ["blue::own", "words"]
    assert all({"cells", "family"} <= row.keys() for row in rows)
