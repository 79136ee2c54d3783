"""Requests sent at their own times, whatever the answers do, and what their timings come to."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx2
import numpy as np
import openai

from quiltwork.core.servable import Json
from quiltwork.core.traces import Trace


@dataclass(frozen=True)
class Answer:
    """How one request went; times are seconds after its intended arrival."""

    end: float
    first: float | None = None
    """When its first text came; None where none did."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    failure: str | None = None
    """What kind of failure it was; None for an answer."""

    @property
    def per_token(self) -> float | None:
        """Seconds per output token after the first; None where there is no second."""
        if self.first is None or self.output_tokens < 2:
            return None
        return (self.end - self.first) / (self.output_tokens - 1)

    def within(self, ttft: float, tpot: float) -> bool:
        """Whether it was answered within both limits; a limit without a figure to hold against it is kept."""
        return self.failure is None and (self.first or 0.0) <= ttft and (self.per_token or 0.0) <= tpot


@dataclass(frozen=True)
class Ask:
    """Where and how requests are sent."""

    models: Sequence[str]
    seed: int = 0
    vocabulary: int | None = None
    """Prompts are token ids below it; None for text of as many short words."""
    ignore_eos: bool = False


async def send_all(client: openai.AsyncOpenAI, trace: Trace, ask: Ask) -> tuple[list[Answer], float]:
    """Every request at its arrival, and the seconds until the last was done. No answer delays another request."""
    draw = random.Random(f"replay/{ask.seed}")
    plan = [(request, draw.choice(ask.models), _prompt(request.prompt_tokens, ask, draw)) for request in trace]
    start = time.monotonic()

    async def one(at: int) -> Answer:
        request, model, prompt = plan[at]
        due = start + request.arrival
        await asyncio.sleep(max(due - time.monotonic(), 0.0))
        return await _send(client, model, prompt, max(request.output_tokens, 1), ask, due)

    answers = await asyncio.gather(*map(one, range(len(plan))))
    return list(answers), time.monotonic() - start


def _prompt(tokens: int, ask: Ask, draw: random.Random) -> str | list[int]:
    count = max(tokens, 1)
    if ask.vocabulary is not None:
        return [draw.randrange(ask.vocabulary) for _ in range(count)]
    return " ".join(draw.choices(("the", "of", "and", "to", "in", "is", "it", "on"), k=count))


async def _send(
    client: openai.AsyncOpenAI, model: str, prompt: str | list[int], max_tokens: int, ask: Ask, due: float
) -> Answer:
    first, used, failure = None, (0, 0), None
    try:
        stream = await client.completions.create(
            model=model, prompt=prompt, max_tokens=max_tokens, stream=True, stream_options={"include_usage": True},
            extra_body={"ignore_eos": True} if ask.ignore_eos else None,
        )  # fmt: skip
        async with stream:
            async for chunk in stream:
                if first is None and any(choice.text for choice in chunk.choices):
                    first = time.monotonic() - due
                if chunk.usage is not None:
                    used = (chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
        if used == (0, 0):
            failure = "no usage reported"
    except openai.APIStatusError as error:
        body = error.body if isinstance(error.body, dict) else {}
        failure = f"{error.status_code}: {str(body.get('message') or error.message)[:120]}"
    except (openai.OpenAIError, httpx2.HTTPError, ValueError) as error:  # refused, cut off, or not of the shape
        failure = f"{type(error).__name__}: {str(error)[:120]}"
    return Answer(time.monotonic() - due, first, *used, failure)


def summary(answers: Sequence[Answer], took: float, *, ttft: float = math.inf, tpot: float = math.inf) -> Json:
    """Percentiles (seconds), rates (per second), goodput within both limits, and failures by kind."""
    good = [answer for answer in answers if answer.failure is None]
    within = sum(answer.within(ttft, tpot) for answer in answers)
    failures = Counter(answer.failure for answer in answers if answer.failure is not None)
    times: Mapping[str, list[float]] = {
        "end_to_end": [answer.end for answer in good],
        "ttft": [answer.first for answer in good if answer.first is not None],
        "tpot": [per for answer in good if (per := answer.per_token) is not None],
    }
    return {
        "requests": len(answers), "answered": len(good), "seconds": took,
        "latency_s": {name: _percentiles(values) for name, values in times.items()},
        "requests_per_s": len(good) / took,
        "prompt_tokens": sum(answer.prompt_tokens for answer in good),
        "output_tokens_per_s": sum(answer.output_tokens for answer in good) / took,
        "goodput": {"share": within / len(answers), "requests_per_s": within / took,
                    "slo_ttft_s": ttft if ttft < math.inf else None, "slo_tpot_s": tpot if tpot < math.inf else None},
        "failures": dict(failures.most_common()),
    }  # fmt: skip


def _percentiles(values: Sequence[float]) -> Json:
    if not values:
        return None
    return {f"p{p}": float(np.percentile(values, p)) for p in (50, 95, 99)}
