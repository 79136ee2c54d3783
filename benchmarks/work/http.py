"""Servers in processes of their own, asked over HTTP: llama.cpp's, and ours. Both by the same client."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from quiltwork.core.bench import tree_pss_bytes
from quiltwork.core.errors import QuiltworkError
from quiltwork.zoo import Zoo
from work.ours import conditions
from work.replay import First, Replayed, Request, one_by_one, replay, warm
from work.settings import LlamaSettings

CONNECTIONS = 64
"""Most requests on their way to one server."""
START_SECONDS = 120.0
CONTEXT = 512
"""Tokens of a slot."""

Ask = tuple[str, Mapping[str, Any]]
"""URL and JSON body."""


class Server:
    """A process that listens on a port of this machine."""

    def __init__(self, command: Sequence[str], health: str, log: Path, threads: int) -> None:
        """command : ``{port}`` in it is replaced by a free port. health : path that says 200 when it is ready."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log, self._health = log, health
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [word.replace("{port}", str(port)) for word in command],
                stdout=file, stderr=file, env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            )  # fmt: skip
        self.command = list(command)

    def wait(self) -> None:
        """Wait until it is ready. Raises QuiltworkError with the end of its log where it does not become so."""
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            try:
                if httpx.get(self.url + self._health).status_code == 200:
                    return
            except httpx.TransportError:
                pass  # it does not listen yet
            time.sleep(0.05)
        told = self._log.read_text("utf-8", "replace")[-2000:]
        raise QuiltworkError(f"is not ready:\n{told}", where=Path(str(self._process.args[0])).name)  # type: ignore[index]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def close(self) -> None:
        """End it, and what it started."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class _Asked:
    """Servers, and how a request is put to them and its tokens read."""

    def __init__(self, ask: Callable[[Request], Ask], read: Callable[[Any, Request], list[int]]) -> None:
        self._ask, self._read = ask, read

    def replay(self, requests: Sequence[Request], apps: Sequence[str], *, each: bool = False) -> Replayed:
        """Serve timed requests after one for each application; ``each`` one after the other."""
        return asyncio.run(self._replay(requests, apps, each))

    async def _replay(self, requests: Sequence[Request], apps: Sequence[str], each: bool) -> Replayed:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        turns = asyncio.Semaphore(CONNECTIONS)
        async with httpx.AsyncClient(limits=limits, timeout=None) as client:

            async def answer(request: Request, first: First) -> list[int]:
                url, body = self._ask(request)
                async with turns:
                    reply = await client.post(url, json=body)
                if reply.status_code != 200:
                    raise QuiltworkError(f"{reply.status_code}: {reply.text[:300]}", where=url)
                return self._read(reply.json(), request)

            await replay([warm(app) for app in apps], answer)
            return await (one_by_one if each else replay)(requests, answer)


class LlamaServers:
    """llama.cpp's server in one of two arrangements: adapters of one base in one process and a process for every other
    application; or its router, which starts a process per application on demand and ends the least recently used.

    Parameters
    ----------
    binary : ``llama-server``.
    models : application -> file of the whole model, LoRAs merged, all in one folder.
    adapters : application -> file of its adapter on ``base``.
    logs : a folder.
    """

    def __init__(
        self, binary: Path, base: str, models: Mapping[str, Path], adapters: Mapping[str, Path], logs: Path
    ) -> None:
        self._binary, self._base, self._models, self._adapters, self._logs = binary, base, models, adapters, logs
        self._servers: dict[str, Server] = {}
        self._settings = LlamaSettings()

    def configure(self, settings: LlamaSettings) -> None:
        """Start the servers anew."""
        self.close()
        self._settings = settings
        if settings.resident is not None:
            folder = next(iter(self._models.values())).parent
            words = ["--models-dir", str(folder), "--models-max", str(settings.resident)]
            self._servers[""] = self._start("router", words, settings.slots)
        else:
            loras = ["--lora", ",".join(map(str, self._adapters.values())), "--lora-init-without-apply"]
            self._servers[self._base] = self._start(self._base, ["-m", str(self._models[self._base]), *loras],
                                                    settings.slots)  # fmt: skip
            for app, path in self._models.items():
                if app != self._base and app not in self._adapters:
                    self._servers[app] = self._start(app, ["-m", str(path)], max(settings.slots // 2, 2))
        for server in self._servers.values():
            server.wait()

    def _start(self, name: str, words: Sequence[str], slots: int) -> Server:
        s = self._settings
        command = [
            str(self._binary), *words, "--host", "127.0.0.1", "--port", "{port}", "-np", str(slots), "-c",
            str(slots * CONTEXT), "-t", str(s.threads), "-tb", str(s.threads), "-ctk", "f32", "-ctv", "f32",
            "-fa", s.flash, "--poll", str(s.poll), "-cram", "0", "--cont-batching", "--no-slots",
            "--threads-http", str(CONNECTIONS),
        ]  # fmt: skip
        return Server(command, "/health", self._logs / f"llama-{name}.log", s.threads)

    def conditions(self) -> dict[str, object]:
        """What the servers run with, for the record; the files hold float32."""
        commands = {name or "router": server.command for name, server in self._servers.items()}
        return {"dtype": "torch.float32", "settings": self._settings.label(), "commands": commands}

    def replay(self, requests: Sequence[Request]) -> Replayed:
        """Serve timed requests."""
        return _Asked(self._ask, _llama_tokens).replay(requests, list(self._models))

    def unloaded(self, requests: Sequence[Request]) -> Replayed:
        """Serve requests of one application one after the other."""
        return _Asked(self._ask, _llama_tokens).replay(requests, [requests[0].app], each=True)

    def _ask(self, request: Request) -> Ask:
        body: dict[str, Any] = {
            "prompt": request.prompt, "n_predict": request.new_tokens, "temperature": 0.0, "ignore_eos": True,
            "samplers": ["temperature"], "cache_prompt": False, "return_tokens": True, "response_fields": ["tokens"],
        }  # fmt: skip
        if self._settings.resident is not None:
            return f"{self._servers[''].url}/completion", body | {"model": request.app}
        shared = request.app == self._base or request.app in self._adapters
        if shared:
            names = list(self._adapters)
            chosen = [{"id": names.index(request.app), "scale": 1.0}] if request.app in self._adapters else []
            body["lora"] = chosen or [{"id": 0, "scale": 0.0}]
        return f"{self._servers[self._base if shared else request.app].url}/completion", body

    def close(self) -> None:
        """End all servers."""
        for server in self._servers.values():
            server.close()
        self._servers = {}


class OurServer:
    """``quiltwork up`` on a zoo."""

    def __init__(self, zoo: Path, models: Sequence[str], compute_threads: int, memory_bytes: int, logs: Path) -> None:
        self._models, self._threads, self._memory, self._logs = list(models), compute_threads, memory_bytes, logs
        self._server = self._start(zoo)

    def _start(self, zoo: Path) -> Server:
        command = [
            str(Path(sys.executable).parent / "quiltwork"), "up", "--zoo", str(zoo), "--port", "{port}",
            "--threads", str(self._threads), "--memory", f"{self._memory}B", "--tenant-requests", "100000",
        ]  # fmt: skip
        server = Server(command, "/readyz", self._logs / f"quiltwork-{zoo.name}.log", self._threads)
        try:
            server.wait()
        except BaseException:
            server.close()
            raise
        return server

    def floor(self) -> int:
        """What a server takes that has no models yet, in bytes."""
        empty = self._logs / "empty-zoo"
        Zoo(empty).close()
        server = self._start(empty)
        taken = tree_pss_bytes(server.pid)
        server.close()
        return taken

    def conditions(self) -> dict[str, object]:
        """What the server runs with, for the record."""
        told = conditions(threads=self._threads, memory_bytes=self._memory)
        return {"dtype": told["dtype"], "settings": told["settings"], "commands": {"up": self._server.command}}

    def replay(self, requests: Sequence[Request]) -> Replayed:
        """Serve timed requests."""
        return _Asked(self._ask, _our_tokens).replay(requests, self._models)

    def unloaded(self, requests: Sequence[Request]) -> Replayed:
        """Serve requests of one application one after the other."""
        return _Asked(self._ask, _our_tokens).replay(requests, [requests[0].app], each=True)

    def _ask(self, request: Request) -> Ask:
        body = {"model": request.app, "prompt": request.prompt, "max_tokens": request.new_tokens, "temperature": 0,
                "ignore_eos": True}  # fmt: skip
        return f"{self._server.url}/v1/completions", body

    def close(self) -> None:
        """End the server."""
        self._server.close()


def _llama_tokens(reply: Any, request: Request) -> list[int]:
    tokens: list[int] = reply["tokens"]
    return _counted(tokens, len(tokens), request)


def _our_tokens(reply: Any, request: Request) -> list[int]:
    # Special tokens are no text: they are missing here, though counted.
    words: list[str] = reply["choices"][0]["text"].split()
    return _counted([int(word[1:]) for word in words], reply["usage"]["completion_tokens"], request)


def _counted(tokens: list[int], count: int, request: Request) -> list[int]:
    if count != request.new_tokens:
        raise QuiltworkError(f"{count} tokens instead of {request.new_tokens}", where=request.id)
    return tokens
