"""Parameter sharing as PEFT offers it: one base with many adapters, mixed in one batch; other models apart.

Requests arrive at any time, ``generate`` takes whole batches: whoever is free takes what waits, up to the batch size,
of the model whose oldest request has waited longest. A row that has all its tokens is answered at once, though its
batch goes on to the longest.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from work.hf import apply, conditions, load
from work.replay import First, Replayed, Request, replay, warm
from work.settings import BatchSettings, HfSettings

BASE = "__base__"
"""PEFT's word for a row without an adapter."""


@dataclass
class _Job:
    request: Request
    first: First
    tell: Callable[[Any], None]
    """Given the tokens, or the error."""
    since: float


class _Rows(BaseStreamer):  # type: ignore[misc]
    """Hands each row's tokens to its job as they come."""

    def __init__(self, jobs: Sequence[_Job]) -> None:
        self._jobs, self._prompted = jobs, False
        self._tokens: list[list[int]] = [[] for _ in jobs]

    def put(self, value: torch.Tensor) -> None:
        """Take the prompts, then a token of every row."""
        if not self._prompted:
            self._prompted = True
            return
        for job, tokens, token in zip(self._jobs, self._tokens, value.tolist(), strict=True):
            tokens.append(token)
            if len(tokens) == 1:
                job.first()
            if len(tokens) == job.request.new_tokens:
                job.tell(list(tokens))

    def end(self) -> None:
        """Nothing follows."""


class _Model:
    """What can share a batch: a model and the applications that are rows of it."""

    def __init__(self, model: Any, adapters: Mapping[str, str] | None) -> None:
        self.model, self.adapters = model, adapters
        self.waiting: deque[_Job] = deque()
        self.busy = False

    @torch.inference_mode()
    def generate(self, jobs: Sequence[_Job], settings: BatchSettings) -> None:
        """Serve a batch, prompts padded on the left, until the longest answer is there."""
        longest = max(len(job.request.prompt) for job in jobs)
        padding = [longest - len(job.request.prompt) for job in jobs]
        ids = torch.tensor([[0] * pad + job.request.prompt for pad, job in zip(padding, jobs, strict=True)])
        mask = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in padding])
        mixed = {} if self.adapters is None else {"adapter_names": [self.adapters[j.request.app] for j in jobs]}
        self.model.generate(
            ids,
            attention_mask=mask,
            generation_config=GenerationConfig(
                max_new_tokens=max(job.request.new_tokens for job in jobs),
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
                cache_implementation="static" if settings.cache == "static" else None,
            ),
            streamer=_Rows(jobs),
            **mixed,
        )


class PeftFleet:
    """The base and its adapters as one model, every other application a model of its own, all in memory.

    Parameters
    ----------
    base : name of the base's application and its folder.
    adapters, models : application -> folder.
    """

    def __init__(self, base: tuple[str, Path], adapters: Mapping[str, Path], models: Mapping[str, Path]) -> None:
        from peft import PeftModel

        name, folder = base
        (first, path), *others = adapters.items()
        shared = PeftModel.from_pretrained(load(folder), path, adapter_name=first)
        for adapter, path in others:
            shared.load_adapter(path, adapter_name=adapter)
        group = _Model(shared.eval(), {name: BASE} | {adapter: adapter for adapter in adapters})
        self._of = dict.fromkeys([name, *adapters], group) | {app: _Model(load(p), None) for app, p in models.items()}
        self._models = list(dict.fromkeys(self._of.values()))
        self._settings = BatchSettings()
        self._work = threading.Condition()
        self._open = False
        gc.freeze()

    def configure(self, settings: BatchSettings) -> None:
        """Change how batches are formed and run from now on."""
        for model in self._models:
            inner = model.model if model.adapters is None else model.model.get_base_model()
            apply(inner, HfSettings(self._settings.attention), HfSettings(settings.attention))
        self._settings = settings
        torch.set_num_threads(settings.threads)

    def conditions(self) -> dict[str, object]:
        """What it runs with, for the record."""
        return conditions(self._settings)

    def replay(self, requests: Sequence[Request]) -> Replayed:
        """Serve timed requests."""
        self._open = True
        workers = [threading.Thread(target=self._run) for _ in range(self._settings.at_once)]
        for worker in workers:
            worker.start()
        try:
            return asyncio.run(self._replay(requests))
        finally:
            with self._work:
                self._open = False
                self._work.notify_all()
            for worker in workers:
                worker.join()

    async def _replay(self, requests: Sequence[Request]) -> Replayed:
        await replay([warm(app) for app in self._of], self._answer)
        return await replay(requests, self._answer)

    async def _answer(self, request: Request, first: First) -> list[int]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[int]] = loop.create_future()

        def settle(value: Any) -> None:
            if not future.done():
                (future.set_exception if isinstance(value, Exception) else future.set_result)(value)

        job = _Job(request, first, lambda value: loop.call_soon_threadsafe(settle, value), time.perf_counter())
        with self._work:
            self._of[request.app].waiting.append(job)
            self._work.notify()
        return await future

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            model, jobs = taken
            try:
                model.generate(jobs, self._settings)
            except Exception as error:  # noqa: BLE001  (whatever it is, it is the requests' to report)
                for job in jobs:
                    job.tell(error)
            with self._work:
                model.busy = False
                self._work.notify()

    def _take(self) -> tuple[_Model, list[_Job]] | None:
        """The next batch; None once it is over."""
        with self._work:
            while True:
                ready = [model for model in self._models if model.waiting and not model.busy]
                if ready:
                    model = min(ready, key=lambda model: model.waiting[0].since)
                    model.busy = True
                    size = min(len(model.waiting), self._settings.requests)
                    return model, [model.waiting.popleft() for _ in range(size)]
                if not self._open:
                    return None
                self._work.wait()
