"""Quiltwork through its public Python calls: the host that serves from a zoo, and its engine.

Every class is built in a process of its own (``work.side``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Caller, Input, Part, Stream
from quiltwork.serving import Engine, EngineConfig, SamplerState, SamplingOptions, language_servable
from quiltwork.serving import Sequence as TokenSequence
from quiltwork.serving.roster import placement
from quiltwork.zoo import Zoo
from work.replay import First, OnDemand, Replayed, Request, replay

Answers = list[list[int]]
CALLER = Caller()


def conditions(dtype: str = "auto", **settings: object) -> dict[str, object]:
    """What an engine with these settings runs with, for the record."""
    precision = placement(EngineConfig(dtype=dtype)).dtype
    return {"dtype": str(precision), "threads": torch.get_num_threads(), "settings": settings}


class OurModels:
    """Many models of a zoo in one engine, asked through the language servable."""

    def __init__(self, zoo: Path, models: Sequence[str] = (), **settings: Any) -> None:
        self._settings = settings
        self._host = language_servable({"zoo": str(zoo), "max_queue": 100_000, "seed": 0} | settings)
        self.load(models)

    def load(self, models: Sequence[str]) -> None:
        """Make models of the zoo ready."""
        for name in models:
            self._host.load(ModelRef(name))

    def conditions(self) -> dict[str, object]:
        """What it runs with, for the record."""
        return conditions(**self._settings)

    def generate(self, requests: Iterable[tuple[str, Sequence[int]]], new_tokens: int) -> Answers:
        """Greedy answers to (model, prompt) pairs, all asked at once."""
        return self.serve([(name, prompt, new_tokens) for name, prompt in requests])

    def serve(self, requests: Iterable[tuple[str, Sequence[int], int]]) -> Answers:
        """Greedy answers to (model, prompt, new tokens), all asked at once."""
        streams = [self._submit(name, prompt, count) for name, prompt, count in requests]
        return [_tokens(stream.wait()) for stream in streams]

    def token_times(self, name: str, prompt: Sequence[int], new_tokens: int) -> tuple[list[int], list[float]]:
        """One greedy answer, and when each of its tokens arrived (seconds)."""
        tokens: list[int] = []
        times: list[float] = []
        for part in self._submit(name, prompt, new_tokens):
            now = time.perf_counter()
            for token in part.fields.get("token_ids", ()):
                tokens.append(token)
                times.append(now)
        return tokens, times

    def segments(self, name: str) -> int:
        """Into how many segments a model is cut."""
        count: int = next(row["segments"] for row in self._host.status()["models"] if row["name"] == name)
        return count

    def weight_bytes(self) -> int:
        """Bytes of weights in memory, by the engine's own account."""
        count: int = self._host.status()["weights"]["bytes"]
        return count

    def replay(self, requests: Sequence[Request]) -> Replayed:
        """Serve timed requests."""
        return asyncio.run(replay(requests, self.answer))

    async def answer(self, request: Request, first: First) -> list[int]:
        """Serve one request."""
        stream = self._submit(request.app, request.prompt, request.new_tokens)
        if not request.stream:
            return _tokens(await stream)
        tokens: list[int] = []
        async for part in stream:
            new = part.fields.get("token_ids", ())
            if new and not tokens:
                first()
            tokens += new
        return tokens

    def close(self) -> None:
        """Stop the engine."""
        self._host.close()

    def _submit(self, name: str, prompt: Sequence[int], new_tokens: int) -> Stream:
        options = {"max_tokens": new_tokens, "temperature": 0, "ignore_eos": True}
        return self._host.submit(ModelRef(name), Input("completion", {"prompt": list(prompt)}), options, caller=CALLER)


class OurModelsInTurn:
    """All models in one engine, which is handed the requests of one model at a time: no batch across models."""

    def __init__(self, zoo: Path, models: Sequence[str], **settings: Any) -> None:
        self._models, self._all = list(models), OurModels(zoo, models, **settings)

    def replay(self, requests: Sequence[Request]) -> Replayed:
        """Serve timed requests."""
        return asyncio.run(self._replay(requests))

    async def _replay(self, requests: Sequence[Request]) -> Replayed:
        turns = OnDemand(lambda app: _OneOf(self._all), len(self._models), at_once=1)
        return await replay(requests, turns.answer)

    def close(self) -> None:
        """Stop the engine."""
        self._all.close()


class _OneOf:
    """One of the models of an engine that is there anyway."""

    def __init__(self, models: OurModels) -> None:
        self.answer = models.answer

    def close(self) -> None:
        """Nothing to free."""


def _tokens(parts: Sequence[Part]) -> list[int]:
    return [token for part in parts for token in part.fields.get("token_ids", ())]


class OurEngine:
    """The engine itself, for what it counts. Single-threaded: a call returns when all its sequences have ended."""

    def __init__(self, zoo: Path, models: Sequence[str], **config: Any) -> None:
        self._engine = Engine(EngineConfig(**config), time.monotonic)
        self._ids = 0
        with Zoo(zoo) as opened:
            for name in models:
                self._engine.install(self._engine.prepare(opened.chain(ModelRef(name)), opened.read))

    def generate(self, requests: Iterable[tuple[str, Sequence[int]]], new_tokens: int) -> Answers:
        """Greedy answers to (model, prompt) pairs, all asked at once."""
        answers: dict[int, list[int]] = {}
        for name, prompt in requests:
            self._ids += 1
            answers[self._ids] = []
            sampler = SamplerState(SamplingOptions(temperature=0.0), list(prompt))
            self._engine.add(TokenSequence(self._ids, ModelRef(name), list(prompt), sampler, new_tokens))
        while self._engine.has_work:
            for emission in self._engine.step():
                if emission.token is not None:
                    answers[emission.sequence_id].append(emission.token.token)
        return list(answers.values())

    def counters(self) -> Mapping[str, int]:
        """Prompt tokens asked, those no attention block computed, and attention blocks run summed over them."""
        stats = self._engine.stats()
        return {
            "prompt_tokens": stats.prompt_tokens,
            "cached_prompt_tokens": stats.cached_prompt_tokens,
            "prefill_token_layers": stats.prefill_token_layers,
        }
