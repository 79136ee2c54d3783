"""The requests of the fleet under load: real arrivals and lengths, real popularity, made small enough for two cores."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from quiltwork.core.errors import NotFoundError
from quiltwork.core.traces import read_azure, read_gentd_popularity, scale_lengths
from work.replay import Request

LENGTH_SCALE = 16
"""Prompt and output lengths of the trace are divided by this."""
CONTEXT = 512
AZURE = Path("llm/traces/azure2023/AzureLLMInferenceTrace_conv.csv")
POPULARITY = Path("llm/traces/gentd26/lora_request_trace.csv")


def requests(data: Path | None, apps: Sequence[str], vocab: int, *, count: int, seed: int) -> list[Request]:
    """The first ``count`` requests of the Azure conversation trace, spread over the applications.

    Applications are drawn with the shares of the trace's most popular models; which application is how popular is
    shuffled by the seed, which also draws the prompts' tokens. Arrivals are the trace's own, in seconds from the
    first. Raises NotFoundError where the data is not there.
    """
    if data is None:
        raise NotFoundError("needs the request traces", where="data", hint="set QUILTWORK_DATA to their folder")
    for path in (AZURE, POPULARITY):
        if not (data / path).is_file():
            raise NotFoundError("the trace is not there", where=str(data / path))
    rng = random.Random(f"workload/{seed}")
    shares = [share for _, share in read_gentd_popularity(data / POPULARITY)][: len(apps)]
    shuffled = rng.sample(list(apps), len(apps))
    chosen = []
    for i, row in enumerate(scale_lengths(read_azure(data / AZURE, limit=count), 1 / LENGTH_SCALE, longest=CONTEXT)):
        tokens = [rng.randrange(3, vocab) for _ in range(row.prompt_tokens)]
        app = rng.choices(shuffled[: len(shares)], shares)[0]
        chosen.append(Request(f"{seed}/{i}", app, row.arrival, tokens, row.output_tokens))
    return chosen


def at_rate(timed: Sequence[Request], rate: float) -> list[Request]:
    """The same requests with their arrivals compressed or stretched to ``rate`` per second on average."""
    factor = (len(timed) - 1) / rate / timed[-1].arrival
    return [replace(request, arrival=request.arrival * factor) for request in timed]


def at_once(timed: Sequence[Request]) -> list[Request]:
    """The same requests, all there from the start: a full queue."""
    return [replace(request, arrival=0.0) for request in timed]


def streamed(timed: Sequence[Request]) -> list[Request]:
    """The same requests, each token wanted as it comes."""
    return [replace(request, stream=True) for request in timed]


def renamed(timed: Sequence[Request], phase: str, vocab: int) -> list[Request]:
    """The same lengths, arrivals and applications with other words, so that nothing computed before is of use."""
    fresh = []
    for request in timed:
        rng = random.Random(f"{phase}/{request.id}")
        tokens = [rng.randrange(3, vocab) for _ in request.prompt]
        fresh.append(replace(request, id=f"{phase}/{request.id}", prompt=tokens))
    return fresh
