"""Transformers' ``generate``, a call per request, one model per application, loaded and unloaded on demand."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from transformers.generation.streamers import BaseStreamer

from work.hf import apply, conditions, generate, load
from work.replay import First, OnDemand, Replayed, Request, one_by_one, replay, warm
from work.settings import GenerateSettings, HfSettings


class TokenTimes(BaseStreamer):  # type: ignore[misc]
    """Tells when the first token is there: what comes after the prompt, which ``generate`` hands over first."""

    def __init__(self, first: First) -> None:
        self._first, self._puts = first, 0

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt, then each token."""
        self._puts += 1
        if self._puts == 2:
            self._first()

    def end(self) -> None:
        """Nothing follows."""


class GenerateModel:
    """One model, which answers one request after the other."""

    def __init__(self, path: Path, settings: GenerateSettings) -> None:
        self._model, self._settings = load(path), settings.hf
        apply(self._model, HfSettings(), self._settings)
        self._turns = ThreadPoolExecutor(max_workers=1)

    async def answer(self, request: Request, first: First) -> list[int]:
        """Serve one request."""
        return await asyncio.get_running_loop().run_in_executor(self._turns, self._generate, request, first)

    def _generate(self, request: Request, first: First) -> list[int]:
        streamer = {"streamer": TokenTimes(first)} if request.stream else {}
        return generate(self._model, [request.prompt], request.new_tokens, self._settings, **streamer)[0]

    def close(self) -> None:
        """Let go of the weights."""
        self._turns.shutdown()
        del self._model


class GenerateFleet:
    """Every application its own model, at most ``resident`` of them in memory."""

    def __init__(self, models: Mapping[str, Path], resident: int, settings: GenerateSettings | None = None) -> None:
        self._models, self._resident = models, resident
        self.configure(settings or GenerateSettings())
        gc.freeze()  # the imports' objects need not be looked through at every unload

    def configure(self, settings: GenerateSettings) -> None:
        """Change how models loaded from now on run."""
        self._settings = settings
        torch.set_num_threads(settings.threads)

    def conditions(self) -> dict[str, object]:
        """What it runs with, for the record."""
        return conditions(self._settings) | {"resident_models": self._resident}

    def replay(self, requests: Sequence[Request]) -> Replayed:
        """Serve timed requests, starting with the last ``resident`` applications loaded."""
        return asyncio.run(self._served(requests, each=False))

    def unloaded(self, requests: Sequence[Request]) -> Replayed:
        """Serve requests one after the other."""
        return asyncio.run(self._served(requests, each=True))

    async def _served(self, requests: Sequence[Request], *, each: bool) -> Replayed:
        settings = self._settings
        fleet = OnDemand(
            lambda app: GenerateModel(self._models[app], settings), self._resident, at_once=settings.at_once
        )
        try:
            await replay([warm(app) for app in list(self._models)[-self._resident :]], fleet.answer)
            before = fleet.loads
            done = await (one_by_one if each else replay)(requests, fleet.answer)
            return Replayed(done.replies, done.seconds, fleet.loads - before)
        finally:
            fleet.close()
