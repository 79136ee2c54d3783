"""The two sides of the demo: one Quiltwork server, and one transformers process per model."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

from quiltwork.core.bench.process import tree_pss_bytes
from quiltwork.core.errors import QuiltworkError

HERE = Path(__file__).resolve().parent
START_SECONDS = 120


@dataclass(frozen=True)
class Work:
    """What is asked: (model, prompt) pairs, all at once, each for the same number of tokens."""

    requests: tuple[tuple[str, str], ...]
    warm_up: str
    tokens: int

    def only(self, models: Collection[str]) -> Work:
        """The requests for these models."""
        return replace(self, requests=tuple(pair for pair in self.requests if pair[0] in models))


@dataclass(frozen=True)
class Run:
    """What a side did and took."""

    texts: tuple[str, ...]
    seconds: tuple[float, ...]
    """Of every request, from sending it to its last token."""
    wall: float
    weight_bytes: int
    kv_bytes: int
    pss_bytes: int
    """Peak over the burst, all processes."""
    first_token: float | None = None

    @property
    def rest_bytes(self) -> int:
        """Memory that is neither weights nor KV."""
        return self.pss_bytes - self.weight_bytes - self.kv_bytes

    def latency(self, share: float) -> float:
        """The latency that this share of the requests does not exceed, in seconds."""
        return quantile(self.seconds, share)

    def throughput(self, tokens: int) -> float:
        """Tokens per second over the whole burst."""
        return len(self.texts) * tokens / self.wall


class Quilt:
    """`quiltwork up` on a zoo, in a process of its own; leaving ends it."""

    def __init__(self, zoo: Path, log: Path, sequences: int) -> None:
        """``sequences``: how many the server may compute at once."""
        self._zoo, self._log, self._sequences = zoo, log, sequences

    def __enter__(self) -> Quilt:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        quiltwork = Path(sys.executable).parent / "quiltwork"
        command = [str(quiltwork), "up", "--zoo", str(self._zoo), "--port", str(port)]
        command += ["--max-num-seqs", str(self._sequences)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, env=environment(os.cpu_count() or 1)
            )
        try:
            self._wait()
        except BaseException:
            end([self._process])
            raise
        return self

    def __exit__(self, *_: object) -> None:
        end([self._process])

    def _wait(self) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise QuiltworkError(f"ended with code {self._process.returncode}: {self.log()}", where="quiltwork up")
            with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                self.get("/readyz")
                return
            time.sleep(0.1)
        raise QuiltworkError(f"is not ready after {START_SECONDS} s: {self.log()}", where="quiltwork up")

    def log(self) -> str:
        """The last of what the server wrote."""
        return self._log.read_text("utf-8", "replace")[-2000:]

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=10) as reply:
            text: str = reply.read().decode()
        return text

    def models(self) -> set[str]:
        """The names that are served."""
        return {model["id"] for model in json.loads(self.get("/v1/models"))["data"]}

    def tokenized(self, work: Work) -> list[tuple[str, list[int]]]:
        """The work's prompts as the token ids that the server makes of them."""
        return [(name, self._tokens(name, prompt)) for name, prompt in work.requests]

    def _tokens(self, name: str, prompt: str) -> list[int]:
        tokens: list[int] = self.post("/tokenize", {"model": name, "prompt": prompt})["tokens"]
        return tokens

    def post(self, path: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to a JSON body. Raises QuiltworkError with what the server says is wrong."""
        body = json.dumps(fields).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                found: dict[str, Any] = json.load(reply)
        except urllib.error.HTTPError as error:
            raise QuiltworkError(json.load(error)["error"]["message"], where=path) from error
        return found

    def run(self, work: Work) -> Run:
        """Warm every model up, then ask everything at once."""
        return asyncio.run(self._run(work))

    async def _run(self, work: Work) -> Run:
        async with AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
            names = dict.fromkeys(name for name, _ in work.requests)
            await asyncio.gather(*(ask(client, name, work.warm_up, 8) for name in names))
            with PeakMemory([self._process.pid]) as peak:
                began = time.perf_counter()
                replies = await asyncio.gather(*(ask(client, *pair, work.tokens) for pair in work.requests))
                wall = time.perf_counter() - began
            figures = self.get("/metrics")
            # Apart from the burst: the other side does not stream, and reading every token is work for the client.
            first = await asyncio.gather(
                *(first_token(client, name, f"{work.warm_up}.", work.tokens) for name in names)
            )
        return Run(
            texts=tuple(text for text, _ in replies),
            seconds=tuple(seconds for _, seconds in replies),
            wall=wall,
            weight_bytes=gauge(figures, "quiltwork:weight_bytes"),
            kv_bytes=gauge(figures, "quiltwork:kv_used_bytes"),
            pss_bytes=peak.bytes,
            first_token=quantile(first, 0.5),
        )


async def ask(client: AsyncOpenAI, model: str, prompt: str, tokens: int) -> tuple[str, float]:
    """One greedy answer: its text, and the seconds to its end."""
    began = time.perf_counter()
    reply = await client.completions.create(
        model=model, prompt=prompt, max_tokens=tokens, temperature=0, extra_body={"ignore_eos": True}
    )
    return reply.choices[0].text, time.perf_counter() - began


async def first_token(client: AsyncOpenAI, model: str, prompt: str, tokens: int) -> float:
    """Seconds to the first token of a streamed answer, which is read to its end."""
    began = time.perf_counter()
    stream = await client.completions.create(
        model=model, prompt=prompt, max_tokens=tokens, temperature=0, stream=True, extra_body={"ignore_eos": True}
    )
    first = None
    async for _ in stream:
        first = first or time.perf_counter() - began
    return first or time.perf_counter() - began


class Apart:
    """One process per model, all started and warm; leaving ends them."""

    def __init__(self, places: Mapping[str, tuple[Path, Path, Path | None]], scratch: Path) -> None:
        """``places``: name -> (the model's folder, its tokenizer's folder, an adapter's base)."""
        self._places, self._scratch = places, scratch
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> Apart:
        try:
            for name, (folder, tokenizer, base) in self._places.items():
                command = [sys.executable, str(HERE / "one_model.py"), str(folder), str(tokenizer)]
                with (self._scratch / f"{name}.log").open("wb") as log:
                    self._processes[name] = subprocess.Popen(
                        [*command, *([str(base)] if base else [])],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=log,
                        text=True,
                        start_new_session=True,
                        env=environment(max(1, (os.cpu_count() or 1) // len(self._places))),
                    )
            self._held = {name: self._read(name) for name in self._processes}
        except BaseException:
            end(list(self._processes.values()))
            raise
        return self

    def __exit__(self, *_: object) -> None:
        end(list(self._processes.values()))

    def run(self, requests: Sequence[tuple[str, list[int]]], tokens: int) -> Run:
        """Warm every model up, then send everything at once."""
        prompts: dict[str, list[int]] = dict(requests)
        for name, ids in prompts.items():
            self._send(name, 0, ids[:2], 8)
        for name in prompts:
            self._read(name)
        with PeakMemory([process.pid for process in self._processes.values()]) as peak:
            began = time.perf_counter()
            for number, (name, ids) in enumerate(requests):
                self._send(name, number, ids, tokens)
            replies: dict[int, tuple[dict[str, Any], float]] = {}
            errors: list[QuiltworkError] = []

            def collect(name: str, count: int) -> None:
                try:
                    for _ in range(count):
                        reply = self._read(name)
                        replies[reply["id"]] = reply, time.perf_counter() - began
                except QuiltworkError as error:
                    errors.append(error)

            counts = [(name, sum(asked == name for asked, _ in requests)) for name in prompts]
            readers = [threading.Thread(target=collect, args=pair, daemon=True) for pair in counts]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()
            wall = time.perf_counter() - began
        if errors:
            raise errors[0]
        ordered = [replies[number] for number in range(len(requests))]
        kv: dict[str, int] = {}
        for (name, _), (reply, _) in zip(requests, ordered, strict=True):
            kv[name] = max(kv.get(name, 0), reply["kv_bytes"])
        return Run(
            texts=tuple(reply["text"] for reply, _ in ordered),
            seconds=tuple(seconds for _, seconds in ordered),
            wall=wall,
            weight_bytes=sum(held["weight_bytes"] for held in self._held.values()),
            kv_bytes=sum(kv.values()),
            pss_bytes=peak.bytes,
        )

    def _send(self, name: str, number: int, ids: list[int], tokens: int) -> None:
        pipe = self._processes[name].stdin
        assert pipe is not None
        try:
            pipe.write(json.dumps({"id": number, "prompt": ids, "tokens": tokens}) + "\n")
            pipe.flush()
        except BrokenPipeError:
            raise self._gone(name) from None

    def _read(self, name: str) -> dict[str, Any]:
        pipe = self._processes[name].stdout
        assert pipe is not None
        line = pipe.readline()
        if not line:
            raise self._gone(name)
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _gone(self, name: str) -> QuiltworkError:
        log = (self._scratch / f"{name}.log").read_text("utf-8", "replace").strip()
        last = log.splitlines()[-1] if log else "it wrote nothing"
        return QuiltworkError(f"its transformers process ended: {last}", where=name)


class PeakMemory:
    """The largest PSS of some processes and their children together, looked at twice a second."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._done = threading.Event()
        self.bytes = 0

    def __enter__(self) -> PeakMemory:
        self._look()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._done.wait(0.5):
            self._look()

    def _look(self) -> None:
        total = 0
        for pid in self._pids:
            # A process that has gone holds nothing; whoever waits for its answer says why it went.
            with suppress(QuiltworkError):
                total += tree_pss_bytes(pid)
        self.bytes = max(self.bytes, total)


def end(processes: Sequence[subprocess.Popen[Any]]) -> None:
    """End processes: asked first, made to after ten seconds."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    until = time.monotonic() + 10
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def environment(threads: int) -> dict[str, str]:
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    return os.environ | quiet | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def gauge(page: str, name: str) -> int:
    """A figure of a Prometheus page. Raises QuiltworkError where it is not there."""
    found = re.search(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", page, re.MULTILINE)
    if found is None:
        raise QuiltworkError(f"has no {name}", where="/metrics")
    return int(float(found[1]))


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
