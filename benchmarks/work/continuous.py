"""Transformers' continuous batching, one manager per model, models loaded and unloaded on demand."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from quiltwork.core.errors import QuiltworkError
from work.hf import load
from work.replay import OnDemand, Replayed, Request, replay, warm
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

    async def answer(self, request: Request) -> list[int]:
        """Serve one request."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[int]] = loop.create_future()

        def done(output: object) -> None:
            error = getattr(output, "error", None)
            if error is not None:
                future.set_exception(QuiltworkError(str(error), where="continuous batching"))
            else:
                future.set_result(list(output.generated_tokens))  # type: ignore[attr-defined]

        self._manager.register_result_handler(request.id, done)
        self._manager.add_request(request.prompt, request_id=request.id, max_new_tokens=request.new_tokens)
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

    def replay(self, requests: Sequence[Request]) -> Replayed:
        """Serve timed requests, starting with the first ``resident`` applications loaded."""
        return asyncio.run(self._replay(requests))

    async def _replay(self, requests: Sequence[Request]) -> Replayed:
        settings = self._settings
        fleet = OnDemand(
            lambda app: ContinuousModel(self._models[app], settings), self._resident, at_once=settings.at_once
        )
        try:
            await replay([warm(app) for app in list(self._models)[-self._resident :]], fleet.answer)
            before = fleet.loads
            done = await replay(requests, fleet.answer)
            return Replayed(done.replies, done.seconds, fleet.loads - before)
        finally:
            fleet.close()
