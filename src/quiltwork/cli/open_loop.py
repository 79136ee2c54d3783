"""Requests sent at their own times, whatever the answers do, and what their timings come to."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import openai

from quiltwork.core.servable import Json
from quiltwork.core.traces import Trace, TraceRequest

WORDS = ("the", "of", "and", "to", "in", "is", "it", "on")
"""Common enough to be one token each in most vocabularies."""
PREFIX_BLOCK = 512
"""Tokens of a block that a trace says is shared."""


@dataclass(frozen=True)
class Failure:
    """Why a request has no answer."""

    kind: str
    """Status and error type as the server gave them, or what happened to the connection: few different ones."""
    message: str = ""


@dataclass(frozen=True)
class Answer:
    """How one request went; times are seconds after its intended arrival."""

    end: float
    first: float | None = None
    """When its first text came; None where none did."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    failure: Failure | None = None

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
    timeout: float = 600.0
    """Seconds, from when it was sent, that a request gets to be answered in full."""

    def model(self, at: int) -> str:
        """Which model the trace's request number ``at`` goes to."""
        return random.Random(f"replay/{self.seed}/{at}/model").choice(self.models)

    def prompt(self, at: int, request: TraceRequest) -> str | list[int]:
        """The prompt of the trace's request number ``at``; where the trace has two begin alike, their prompts do."""
        count = max(request.prompt_tokens, 1)
        pieces = list(_pieces(f"replay/{self.seed}", at, request, count))
        if self.vocabulary is None:
            return " ".join(word for draw, k in pieces for word in draw.choices(WORDS, k=k))
        ids = range(self.vocabulary)
        return [token for draw, k in pieces for token in draw.choices(ids, k=k)]


def _pieces(seed: str, at: int, request: TraceRequest, count: int) -> Iterator[tuple[random.Random, int]]:
    """A source of randomness for each shared block and for the rest, each with how many tokens come from it."""
    for block in request.prefix_blocks[: math.ceil(count / PREFIX_BLOCK)]:
        taken = min(count, PREFIX_BLOCK)
        count -= taken
        yield random.Random(f"{seed}/block/{block}"), taken
    yield random.Random(f"{seed}/{at}/prompt"), count


async def send_all(
    client: openai.AsyncOpenAI,
    trace: Trace,
    ask: Ask,
    *,
    told: Callable[[Answer], None] = lambda answer: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> tuple[list[Answer], float]:
    """Every request at its arrival, and the seconds until the last was done. No answer delays another request.

    A prompt is made when it is sent. ``told`` is called with each answer as it ends.
    """
    start = clock()

    async def one(at: int, request: TraceRequest) -> Answer:
        due = start + request.arrival
        await sleep(max(due - clock(), 0.0))
        answer = await _send(client, at, request, ask, due, clock)
        told(answer)
        return answer

    answers = await asyncio.gather(*(one(at, request) for at, request in enumerate(trace)))
    return list(answers), clock() - start


async def _send(
    client: openai.AsyncOpenAI, at: int, request: TraceRequest, ask: Ask, due: float, clock: Callable[[], float]
) -> Answer:
    first, finished, used, failure = None, False, None, None
    try:
        async with asyncio.timeout(ask.timeout):
            stream = await client.completions.create(
                model=ask.model(at),
                prompt=ask.prompt(at, request),
                max_tokens=max(request.output_tokens, 1),
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"ignore_eos": True} if ask.ignore_eos else None,
            )
            async with stream:
                async for chunk in stream:
                    for choice in chunk.choices or ():
                        if first is None and choice.text:
                            first = clock() - due
                        finished = finished or choice.finish_reason is not None
                    used = chunk.usage or used
        if not finished:
            failure = Failure("cut off", "the stream ended without a finish_reason")
        elif used is None:
            failure = Failure("no usage", "the server did not say how many tokens there were")
    except TimeoutError:
        failure = Failure("timeout", f"not answered within {ask.timeout:g} s")
    except (openai.OpenAIError, ValueError) as error:  # refused, cut off, or not JSON
        failure = _failure(error)
    tokens = (used.prompt_tokens, used.completion_tokens) if used is not None else (0, 0)
    return Answer(clock() - due, first, *tokens, failure)


def _failure(error: openai.OpenAIError | ValueError) -> Failure:
    body = error.body if isinstance(error, openai.APIError) and isinstance(error.body, dict) else {}
    message = str(body.get("message") or error.__cause__ or error)
    kind = str(body.get("type") or body.get("code") or type(error).__name__)
    return Failure(f"{error.status_code} {kind}" if isinstance(error, openai.APIStatusError) else kind, message)


def summary(answers: Sequence[Answer], took: float, *, ttft: float = math.inf, tpot: float = math.inf) -> Json:
    """Percentiles (seconds), rates (per second), goodput within both limits, and failures by kind."""
    good = [answer for answer in answers if answer.failure is None]
    within = sum(answer.within(ttft, tpot) for answer in answers)
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
        "failures": _by_kind([answer.failure for answer in answers if answer.failure is not None]),
    }  # fmt: skip


def _by_kind(failures: Sequence[Failure]) -> list[Json]:
    """How many there were of each kind, the most frequent first, with the message of the first of them."""
    counts = Counter(failure.kind for failure in failures)
    example = {failure.kind: failure.message[:200] for failure in reversed(failures)}
    return [{"kind": kind, "count": count, "example": example[kind]} for kind, count in counts.most_common()]


def _percentiles(values: Sequence[float]) -> Json:
    if not values:
        return None
    return {f"p{p}": float(np.percentile(values, p)) for p in (50, 95, 99)}
