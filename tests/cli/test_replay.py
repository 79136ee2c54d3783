"""A trace is replayed against a real server; the numbers come from timings alone."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import threading
from collections import Counter

import openai
import pytest
from fake_servable import FakeServable
from openai_servers import answering, event, serving

from quiltwork.cli import main
from quiltwork.cli.open_loop import Answer, Ask, Failure, send_all, summary
from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Input
from quiltwork.core.traces import TraceRequest

BEHAVIOURS = ("full", "fail", "crash", "hang", "refuse")


class Moody(FakeServable):
    """A model named after a behaviour shows it, whatever the prompt; none is answered before ``awaited`` are there."""

    def __init__(self) -> None:
        super().__init__(*(ModelRef(name) for name in ("base", "law", *BEHAVIOURS)))
        self.lock = threading.Lock()
        self.held = []
        self.awaited = 0
        """How many requests have to come before any is answered."""

    def submit(self, model, input, options, *, caller):
        if model.name in BEHAVIOURS:
            input = Input(input.task, {"prompt": f"{model.name} of what"}, input.blobs)
        return super().submit(model, input, options, caller=caller)

    def _say(self, stream, input, options):
        with self.lock:
            self.held.append((stream, input, options))
            if len(self.held) < self.awaited:
                return
            ready, self.held = self.held, []
        for one in ready:
            super()._say(*one)


@pytest.fixture
def fake():
    return Moody()


@pytest.fixture
def url(fake):
    with serving(fake) as url:
        yield url


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "t.jsonl"
    rows = [{"timestamp": 10 * i, "input_length": 3 + i, "output_length": 4} for i in range(8)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def run(capsys, *args):
    code = 0
    try:
        main(["replay", *map(str, args)])
    except SystemExit as stop:
        code = stop.code or 0
    return code, *capsys.readouterr()


def figures(capsys, *args):
    """The JSON of a replay that ends well."""
    code, out, err = run(capsys, *args, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def kinds(found):
    return {failure["kind"]: failure["count"] for failure in found["failures"]}


def sent(fake):
    """Model and prompt of each request, by how long the prompt is."""
    return sorted(((asked[0].name, asked[1].fields["prompt"]) for asked in fake.asked), key=lambda one: len(one[1]))


def play(url, trace, ask, **how):
    """Replay ``trace`` as a program would."""

    async def play_all():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            return await send_all(client, trace, ask, **how)

    return asyncio.run(play_all())


def test_every_request_is_sent_with_its_lengths(capsys, trace, url, fake):
    found = figures(capsys, trace, "--url", url, "--model", "base", "--model", "law", "--vocabulary", 50)
    assert (found["answered"], found["failures"]) == (8, [])
    assert [len(prompt) for _, prompt in sent(fake)] == list(range(3, 11))
    assert all(0 <= token < 50 for _, prompt in sent(fake) for token in prompt)
    assert {model for model, _ in sent(fake)} == {"base", "law"}
    assert found["output_tokens_per_s"] * found["seconds"] == pytest.approx(32)
    assert found["prompt_tokens"] == sum(range(3, 11))


def test_an_answer_that_waits_delays_no_other_request(url, fake):
    """None is answered before all have been asked: a client that waited for one would never end."""
    fake.awaited = 8
    ended = []
    trace = tuple(TraceRequest(0.0, 3 + i, 2) for i in range(8))
    answers, _ = play(url, trace, Ask(["base"], timeout=30), told=ended.append)
    assert [answer.failure for answer in answers] == [None] * 8
    assert len(ended) == 8
    assert Counter(map(id, ended)) == Counter(map(id, answers))


def test_many_open_requests_are_no_failures_for_want_of_files(capsys, tmp_path, url, fake):
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join([json.dumps({"timestamp": 0, "input_length": 3, "output_length": 4})] * 80))
    fake.awaited = 80
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 40, before[1]))
    try:
        assert figures(capsys, path, "--url", url, "--model", "base", "--timeout", 30)["answered"] == 80
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_latency_counts_from_the_intended_arrival(url):
    """A client that wakes up 5 s late has its answers 5 s late, however fast the server is."""
    now = [100.0]

    async def oversleep(seconds):
        now[0] += seconds + 5

    trace = (TraceRequest(2.0, 3, 4),)
    answers, took = play(url, trace, Ask(["base"]), clock=lambda: now[0], sleep=oversleep)
    assert answers == [Answer(5.0, 5.0, 3, 4)]
    assert took == 7.0


@pytest.mark.parametrize("option", [(), ("--vocabulary", "50")])
def test_a_seed_gives_the_same_prompts_and_models(capsys, trace, url, fake, option):
    seen = []
    for seed in (1, 1, 2):
        fake.asked.clear()
        figures(capsys, trace, "--url", url, "--model", "base", "--model", "law", "--seed", seed, *option)
        seen.append(sent(fake))
    assert seen[0] == seen[1]
    assert seen[0] != seen[2]


def test_requests_that_the_trace_has_begin_alike_do():
    first, second, other = (TraceRequest(0.0, 1200, 1, blocks) for blocks in ((1, 2, 3), (1, 2, 4), (5, 6, 7)))
    for vocabulary, split in ((1000, list), (None, str.split)):
        ask = Ask(["m"], vocabulary=vocabulary)
        a, b, c = (split(ask.prompt(at, request)) for at, request in enumerate((first, second, other)))
        assert len(a) == len(b) == len(c) == 1200
        assert a[:1024] == b[:1024]
        assert a[1024:] != b[1024:]
        assert a[:512] != c[:512]


def test_a_prompt_is_as_long_as_the_trace_says_whatever_its_blocks():
    for length in (0, 1, 511, 512, 513, 1500):
        request = TraceRequest(0.0, length, 1, (1, 2))
        assert len(Ask(["m"], vocabulary=9).prompt(0, request)) == max(length, 1)


def test_limit_speed_and_lengths(capsys, tmp_path, url, fake):
    path = tmp_path / "t.jsonl"
    rows = [{"timestamp": 3_600_000 * i, "input_length": 100 * (i + 1), "output_length": 60} for i in range(5)]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = figures(
        capsys, path, "--url", url, "--model", "base", "--vocabulary", 9, "--limit", 3, "--speed", 1e9,
        "--scale-lengths", 0.1, "--longest", 25,
    )  # fmt: skip
    assert found["answered"] == 3
    assert [len(prompt) for _, prompt in sent(fake)] == [10, 20, 24]
    assert sorted(asked[2]["max_tokens"] for asked in fake.asked) == [1, 5, 6]


def test_a_sweep_reports_p95_at_every_rate_and_a_server_that_refuses_has_no_knee(capsys, trace, url, fake):
    options = ("--url", url, "--model", "base", "--rate", 400, "--rate", 200, "--rate", 200, "--vocabulary", 1000)
    found = figures(capsys, trace, *options)
    assert [row["rate"] for row in found["rates"]] == [200, 400]
    for row in found["rates"]:
        assert (row["requests"], row["answered"]) == (8, 8)
        assert row["latency_s"]["end_to_end"]["p95"] >= row["latency_s"]["end_to_end"]["p50"] > 0
        assert row["requests_per_s"] > 0
    prompts = [tuple(prompt) for _, prompt in sent(fake)]
    assert len(prompts) == len(set(prompts)) == 16, "no rate finds its prompts computed at another"
    code, out, _ = run(capsys, trace, "--url", url, "--model", "full", "--rate", 200, "--json")
    assert (code, json.loads(out)["knee"]) == (1, None)


def test_a_sweep_is_shown_as_a_table_with_the_knee(capsys, trace, url):
    code, out, err = run(capsys, trace, "--url", url, "--model", "full", "--rate", 200, "--rate", 400)
    assert (code, err) == (1, "")
    for phrase in ("offered/s", "p95 ms", "200", "400", "knee: below 200 requests/s"):
        assert phrase in out


def test_a_sweep_spreads_arrivals_as_the_rate_says(capsys, trace, url, monkeypatch):
    """Answers that take a tenth of a second each, one at a time: the knee is found below ten a second."""
    played = []

    async def queue(base, key, requests, ask, told):
        played.append([request.arrival for request in requests])
        free, answers = 0.0, []
        for request in requests:
            free = max(free, request.arrival) + 0.1
            answers.append(Answer(free - request.arrival, 0.1, 3, 4))
        return answers, free

    monkeypatch.setattr("quiltwork.cli.replay._replay", queue)
    rates = (2, 5, 9, 20, 50)
    found = figures(capsys, trace, "--url", url, "--model", "base", *(w for r in rates for w in ("--rate", r)))
    assert [7 / arrivals[-1] for arrivals in played] == pytest.approx(rates)
    assert found["knee"] == 9
    p95 = [row["latency_s"]["end_to_end"]["p95"] for row in found["rates"]]
    assert p95[:3] == pytest.approx([0.1] * 3)
    assert p95[2] < p95[3] < p95[4]
    assert [row["requests_per_s"] for row in found["rates"]][-2:] == pytest.approx([10, 10])


def test_failures_are_counted_by_kind(capsys, tmp_path, url):
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join([json.dumps({"timestamp": 0, "input_length": 3, "output_length": 4})] * 60))
    names = ["base", "full", "fail", "crash", "refuse"]
    found = figures(capsys, path, "--url", url, *(word for name in names for word in ("--model", name)))
    dealt = Counter(Ask(names).model(at) for at in range(60))
    assert len(dealt) == 5
    assert found["answered"] == dealt["base"]
    assert kinds(found) == {
        "429 rate_limit_error": dealt["full"],
        "server_error": dealt["fail"],
        "500 server_error": dealt["crash"],
        "400 invalid_request_error": dealt["refuse"],
    }
    assert found["goodput"]["share"] == dealt["base"] / 60


def test_an_answer_that_never_ends_is_given_up(url, fake):
    answers, _ = play(url, (TraceRequest(0.0, 3, 4),) * 2, Ask(["hang"], timeout=0.2))
    assert [answer.failure.kind for answer in answers] == ["timeout"] * 2
    assert fake.cancelled.wait(20)


def test_failures_are_shown(capsys, trace, url):
    code, out, _ = run(capsys, trace, "--url", url, "--model", "base", "--ignore-eos")
    assert code == 1
    assert "0 of 8" in out
    line = next(line for line in out.splitlines() if "400 invalid_request_error" in line)
    assert "  8  " in line
    assert "ignore_eos" in line


def test_the_table_says_what_was_measured_and_with_what_prompts(capsys, trace, url):
    code, out, err = run(capsys, trace, "--url", url, "--model", "base", "--slo-ttft", 60, "--seed", 3)
    assert (code, err) == (0, "")
    for phrase in ("8 of 8 requests", "random common words", "seed 3", "p95", "first token", "goodput: 100.0%",
                   "within ttft 60 s"):  # fmt: skip
        assert phrase in out


USAGE = {"usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}


@pytest.mark.parametrize(
    ("events", "end", "kind"),
    [
        ([event("a"), event("b")], b"", "cut off"),
        ([event("a"), event("b", **USAGE)], b"data: [DONE]\n\n", "cut off"),
        ([event("a")], b'data: {"choices": [{"te', "cut off"),
        ([event("a")], b"data: nonsense\n\n", "JSONDecodeError"),
        ([event("a", "stop")], b"data: [DONE]\n\n", "no usage"),
        ([event("a", "stop", **USAGE)], b"data: [DONE]\n\n", None),
    ],
)
def test_a_stream_that_breaks_off_is_no_answer(capsys, trace, events, end, kind):
    with answering(*events, end=end) as url:
        code, out, _ = run(capsys, trace, "--url", url, "--json", "--limit", 2)
    found = json.loads(out)
    assert code == (0 if kind is None else 1)
    assert kinds(found) == ({} if kind is None else {kind: 2})


def test_a_server_that_is_gone_is_a_failure_of_each_request():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        answers, _ = play(f"http://127.0.0.1:{free.getsockname()[1]}", (TraceRequest(0.0, 3, 4),) * 3, Ask(["m"]))
    assert [answer.failure.kind for answer in answers] == ["APIConnectionError"] * 3


def test_bad_input_is_one_line(capsys, trace, url, tmp_path):
    (tmp_path / "bad.jsonl").write_text("nonsense")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        absent = f"http://127.0.0.1:{free.getsockname()[1]}"
        cases = [
            ((tmp_path / "no.csv", "--url", url), "no.csv"),
            ((tmp_path / "bad.jsonl", "--url", url), "line 1"),
            ((trace, "--url", absent, "--model", "base"), absent),
            ((trace, "--url", "localhost:1", "--model", "base"), "--url"),
            ((trace, "--url", url, "--model", "nobody"), "nobody"),
            ((trace, "--url", url), "--model"),
            *(
                ((trace, "--url", url, "--model", "base", option, value), option)
                for option in ("--speed", "--scale-lengths", "--timeout", "--rate")
                for value in ("0", "-1", "nan", "inf")
            ),
            ((trace, "--url", url, "--model", "base", "--slo-ttft", "nan"), "--slo-ttft"),
            ((trace, "--url", url, "--model", "base", "--rate", "2", "--speed", "2"), "--rate"),
            ((trace, "--url", url, "--model", "base", "--rate", "2", "--limit", "1"), "trace"),
        ]
        for case, named in cases:
            code, out, err = run(capsys, *case)
            assert code
            assert out == ""
            assert err.startswith("quiltwork: ")
            assert err.count("\n") == 1
            assert named in err


def test_numbers_from_timings():
    answers = [Answer(2.0, 1.0, 5, 11), Answer(4.0, 3.0, 5, 1), Answer(1.0, failure=Failure("429", "full"))]
    found = summary(answers, 10.0, ttft=2.0, tpot=0.2)
    assert found["latency_s"]["end_to_end"]["p50"] == 3.0
    assert found["latency_s"]["tpot"]["p50"] == pytest.approx(0.1)
    assert found["goodput"]["share"] == pytest.approx(1 / 3)
    assert found["output_tokens_per_s"] == pytest.approx(1.2)
    assert found["failures"] == [{"kind": "429", "count": 1, "example": "full"}]


def test_failures_that_differ_in_words_alone_are_one_kind():
    answers = [Answer(1.0, failure=Failure("timeout", f"number {i}")) for i in range(3)]
    assert summary(answers, 1.0)["failures"] == [{"kind": "timeout", "count": 3, "example": "number 0"}]


@pytest.mark.realdata
def test_the_azure_trace(capsys, data_dir, url, fake):
    path = data_dir / "llm" / "traces" / "azure2023" / "AzureLLMInferenceTrace_conv.csv"
    found = figures(
        capsys, path, "--url", url, "--model", "base", "--limit", 50, "--speed", 1000, "--vocabulary", 1000,
        "--scale-lengths", 0.1,
    )  # fmt: skip
    assert found["answered"] == 50
    rows = [line.split(",")[1:] for line in path.read_text().splitlines()[1:51]]
    assert [len(prompt) for _, prompt in sent(fake)] == sorted(max(round(int(row[0]) * 0.1), 1) for row in rows)
