"""What the page is told of latency."""

from __future__ import annotations

from asking import ask, complete


def latency(url):
    return ask(url, path="/v1/status")[2]["latency"]


def test_only_streamed_replies_tell_when_their_first_part_came(url):
    assert complete(url, max_tokens=8)[0] == 200
    seen = latency(url)
    assert (seen["requests"], seen["first"], seen["tokens"]) == (1, None, 8)
    assert set(seen["total"]) == {"p50", "p95"}
    assert complete(url, stream=True)[0] == 200
    seen = latency(url)
    assert seen["requests"] == 2
    assert 0 <= seen["first"]["p95"] <= seen["total"]["p95"]


def test_a_request_that_was_refused_is_no_latency(url):
    assert complete(url, prompt="refuse")[0] == 400
    assert latency(url)["requests"] == 0
