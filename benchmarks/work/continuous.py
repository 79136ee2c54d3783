"""Transformers' continuous batching, one manager per model, models loaded and unloaded on demand."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from quiltwork.core.errors import QuiltworkError
from work.hf import conditions, load
from work.replay import First, OnDemand, Replayed, Request, one_by_one, replay, warm
from work.settings import ContinuousSettings


class ContinuousModel:
    """One model and its manager."""

    def __init__(self, path: Path, settings: ContinuousSettings) -> None:
        model = load(path)
        model.set_attn_implementation(settings.attention)
        self._manager = model.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=settings.page,
                num_blocks=settings.pool_tokens // settings.page,
                max_batch_tokens=settings.batch_tokens,
                max_requests_per_batch=settings.requests,
                allow_block_sharing=False,  # no two prompts share a prefix here; looking for one only costs
            ),
        )
        self._manager.start()

    async def answer(self, request: Request, first: First) -> list[int]:
        """Serve one request."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[int]] = loop.create_future()

        def told(output: Any) -> None:
            if output.error is not None:
                future.set_exception(QuiltworkError(str(output.error), where="continuous batching"))
                return
            if len(output.generated_tokens) == 1:
                first()
            if output.is_finished():
                future.set_result(list(output.generated_tokens))

        self._manager.register_result_handler(request.id, told)
        self._manager.add_request(
            request.prompt, request_id=request.id, max_new_tokens=request.new_tokens, streaming=request.stream
        )
        return await future

    def close(self) -> None:
        """Stop the manager and let go of the weights."""
        self._manager.stop(block=True)
        self._manager.destroy()
        del self._manager


class ContinuousFleet:
    """Every application its own model, at most ``resident`` of them in memory."""

    def __init__(self, models: Mapping[str, Path], resident: int, settings: ContinuousSettings | None = None) -> None:
        self._models, self._resident = models, resident
        self.configure(settings or ContinuousSettings())
        gc.freeze()  # the imports' objects need not be looked through at every unload

    def configure(self, settings: ContinuousSettings) -> None:
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
            lambda app: ContinuousModel(self._models[app], settings), self._resident, at_once=settings.at_once
        )
        try:
            await replay([warm(app) for app in list(self._models)[-self._resident :]], fleet.answer)
            before = fleet.loads
            done = await (one_by_one if each else replay)(requests, fleet.answer)
            return Replayed(done.replies, done.seconds, fleet.loads - before)
        finally:
            fleet.close()
