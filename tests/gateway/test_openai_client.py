"""The official client works unchanged."""

from __future__ import annotations

import openai
import pytest


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_models_are_listed_and_found(client):
    assert [model.id for model in client.models.list()] == ["base", "law", "poems", "code"]
    assert client.models.retrieve("law").owned_by == "public"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nobody")
    assert caught.value.body["code"] == "model_not_found"


def test_a_completion(client):
    reply = client.completions.create(model="law", prompt="to be", max_tokens=4)
    assert reply.choices[0].text == "TO BE TO BE"
    assert reply.choices[0].finish_reason == "length"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (2, 4, 6)
    assert reply.usage.prompt_tokens_details.cached_tokens == 1


def test_a_completion_is_sixteen_tokens_unless_told_otherwise(client, fake):
    client.completions.create(model="law", prompt="a")
    assert fake.asked[-1][2]["max_tokens"] == 16


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ([5, 6], ["T5 T6"]),
        (["a b", "c d"], ["A B", "C D"]),
        ([[1, 2], [3]], ["T1 T2", "T3 T3"]),
    ],
)
def test_prompts_of_every_form(client, prompt, texts):
    reply = client.completions.create(model="law", prompt=prompt, max_tokens=2)
    assert [choice.text for choice in reply.choices] == texts
    assert [choice.index for choice in reply.choices] == list(range(len(texts)))


def test_choices_of_several_prompts_stand_together(client):
    reply = client.completions.create(model="law", prompt=["a", "b"], n=2, max_tokens=1)
    assert [(c.index, c.text) for c in reply.choices] == [(0, "A"), (1, "A"), (2, "B"), (3, "B")]


def test_echo_gives_the_prompt_back(client):
    assert client.completions.create(model="law", prompt="a b", echo=True, max_tokens=1).choices[0].text == "a bA"
    assert client.completions.create(model="law", prompt=[7, 8], echo=True, max_tokens=0).choices[0].text == "t7 t8"


def test_echo_with_logprobs_covers_the_prompt(client):
    choice = client.completions.create(model="law", prompt="a b", echo=True, logprobs=1, max_tokens=1).choices[0]
    assert choice.logprobs.tokens == ["t0", "b", "A"]
    assert choice.logprobs.token_logprobs == [None, -0.5, -0.5]
    assert choice.logprobs.top_logprobs == [None, {"b": -0.5}, {"A": -0.5}]
    assert choice.logprobs.text_offset == [0, 2, 3]


def test_a_streamed_completion_is_the_whole_one_in_pieces(client):
    whole = client.completions.create(model="law", prompt="a b c", max_tokens=5, logprobs=2)
    chunks = list(client.completions.create(model="law", prompt="a b c", max_tokens=5, logprobs=2, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"
    assert [o for c in chunks for o in c.choices[0].logprobs.text_offset] == whole.choices[0].logprobs.text_offset


def test_a_chat(client):
    reply = client.chat.completions.create(model="poems", messages=[{"role": "user", "content": "good day"}])
    assert reply.choices[0].message.content.startswith("GOOD DAY")
    assert reply.choices[0].message.role == "assistant"


def test_chat_logprobs(client):
    reply = client.chat.completions.create(
        model="law", messages=[{"role": "user", "content": "a"}], logprobs=True, top_logprobs=1, max_completion_tokens=1
    )
    entry = reply.choices[0].logprobs.content[0]
    assert (entry.token, entry.logprob, entry.bytes, entry.top_logprobs[0].token) == ("A", -0.5, [65], "A")


def test_a_streamed_chat_ends_with_its_usage(client):
    chunks = list(
        client.chat.completions.create(
            model="law", messages=[{"role": "user", "content": "a b"}], stream=True, n=2,
            stream_options={"include_usage": True}, max_tokens=2,
        )
    )  # fmt: skip
    assert chunks[0].choices[0].delta.role == "assistant"
    for index in (0, 1):
        said = [c.choices[0].delta.content or "" for c in chunks[:-1] if c.choices[0].index == index]
        assert "".join(said) == "A B"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 4


def test_options_of_the_servable_need_no_code_here(client, fake):
    client.completions.create(model="law", prompt="a", extra_body={"adapter_scale": 0.5})
    assert fake.asked[-1][2]["adapter_scale"] == 0.5


EXPLAIN = {"extra_body": {"explain": True}}


def test_a_reply_explains_itself_where_it_is_asked(client):
    reply = client.completions.create(model="law", prompt=["a", "b"], n=2, max_tokens=1, **EXPLAIN)
    assert [choice["index"] for choice in reply.explain["choices"]] == [0, 1, 2, 3]
    assert reply.explain["choices"][3]["hops"][0]["batches"]["count"] == 7
    chat = client.chat.completions.create(model="law", messages=[{"role": "user", "content": "a"}], **EXPLAIN)
    assert [choice["index"] for choice in chat.explain["choices"]] == [0]
    assert "explain" not in client.completions.create(model="law", prompt="a").model_extra


@pytest.mark.parametrize("usage", [True, False])
def test_a_streamed_reply_is_explained_in_its_last_chunk(client, usage):
    asked = {"model": "law", "stream": True, "max_tokens": 2, "stream_options": {"include_usage": usage}, **EXPLAIN}
    for chunks in (
        list(client.completions.create(prompt="a b", **asked)),
        list(client.chat.completions.create(messages=[{"role": "user", "content": "a b"}], **asked)),
    ):
        assert [("explain" in chunk.model_extra) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        assert chunks[-1].choices == []
        assert chunks[-1].explain["choices"][0]["kv"]["found"]["sibling"] == 3
        assert (chunks[-1].usage is not None) == usage
        assert chunks[-2].choices[0].finish_reason == "length"


def test_ten_thousand_stop_strings_pass(client, fake):
    stops = [f"stop {at}" for at in range(10_000)]
    client.completions.create(model="law", prompt="a", stop=stops)
    assert fake.asked[-1][2]["stop"] == stops


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"tools": []}, "tools"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"other": 1}}, "stream_options"),
        ({"temperature": "hot"}, "temperature"),
    ],
)
def test_what_is_not_implemented_or_wrong_is_refused_by_name(client, extra, field):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="law", prompt="a", extra_body=extra)
    assert caught.value.body["param"] == field


def test_a_full_server_says_when_to_come_again(client):
    with pytest.raises(openai.RateLimitError) as caught:
        client.completions.create(model="law", prompt="full")
    assert caught.value.response.headers["retry-after"] == "3"


def test_a_failure_in_a_stream_reaches_the_reader_after_what_came_before(client):
    stream = client.completions.create(model="law", prompt="fail", stream=True)
    texts: list[str] = []
    with pytest.raises(openai.APIError, match="the engine failed"):
        texts.extend(chunk.choices[0].text for chunk in stream)
    assert texts == ["FAIL ", "FAIL "]


def test_an_unforeseen_error_keeps_its_secret(client):
    with pytest.raises(openai.InternalServerError) as caught:
        client.completions.create(model="law", prompt="crash")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_cancels_its_request(client, fake, stream):
    if stream:
        with client.completions.create(model="law", prompt="hang", stream=True) as reply:
            next(iter(reply))
    else:
        with pytest.raises(openai.APITimeoutError):
            client.completions.create(model="law", prompt="hang", timeout=0.5)
    assert fake.cancelled.wait(10)


async def _ask(url):
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        stream = await client.completions.create(model="law", prompt="slow b", stream=True, max_tokens=4)
        return "".join([chunk.choices[0].text async for chunk in stream])


def test_the_asynchronous_client(url):
    import asyncio

    assert asyncio.run(_ask(url)) == "SLOW B SLOW B"
