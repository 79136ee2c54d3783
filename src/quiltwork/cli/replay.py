"""``quiltwork replay``: the arrivals and lengths of a recorded trace, sent to any server of OpenAI's shape."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Annotated

import httpx2
import openai
import typer

from quiltwork.cli.client import connect, naming_errors, pick_model
from quiltwork.cli.open_loop import Answer, Ask, send_all, summary
from quiltwork.cli.output import emit
from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json
from quiltwork.core.traces import Trace, compress_time, read_trace, scale_lengths


def replay(
    trace: Annotated[Path, typer.Argument(help="A .csv (Azure) or .jsonl (Mooncake) trace.")],
    url: Annotated[str, typer.Option(envvar="QUILTWORK_URL", help="The server.")],
    key: Annotated[str | None, typer.Option(envvar="QUILTWORK_API_KEY", help="An API key.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Repeat it to deal requests out among several.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many requests.")] = None,
    speed: Annotated[float, typer.Option(help="Arrivals so many times as fast.")] = 1.0,
    scale: Annotated[float, typer.Option("--scale-lengths", help="Lengths times this.")] = 1.0,
    longest: Annotated[int | None, typer.Option(help="Most tokens of a prompt and its output together.")] = None,
    slo_ttft: Annotated[float, typer.Option(min=0, help="Seconds to the first token that are good.")] = math.inf,
    slo_tpot: Annotated[float, typer.Option(min=0, help="Seconds per later token that are good.")] = math.inf,
    vocabulary: Annotated[
        int | None, typer.Option(min=1, help="Send token ids below this, of exact length; else words, about one each.")
    ] = None,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Ask for full length (not every server can).")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of prompts and of the choice of models.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Send a trace's requests at their own times; latency counts from when each was meant to arrive."""
    requests = compress_time(read_trace(trace, limit=limit), speed)
    if scale != 1.0 or longest is not None:
        requests = scale_lengths(requests, scale, longest=10**9 if longest is None else longest)
    with naming_errors(url), connect(url, key) as client:
        if model:
            known = {served.id for served in client.models.list()}
            for name in model:
                if name not in known:
                    raise BadInputError(f"the server has no {name!r}", where="--model")
        models = model or [pick_model(client)]
        base = str(client.base_url)
    ask = Ask(models, seed, vocabulary, ignore_eos)
    answers, took = asyncio.run(_replay(base, key, requests, ask))
    found = summary(answers, took, ttft=slo_ttft, tpot=slo_tpot)
    emit(found, json, "" if json else _shown(found))
    if not found["answered"]:
        raise typer.Exit(1)


async def _replay(base: str, key: str | None, trace: Trace, ask: Ask) -> tuple[list[Answer], float]:
    # No cap on connections: a queue in the client would make arrivals wait for answers.
    unbounded = httpx2.AsyncClient(limits=httpx2.Limits(max_connections=None), timeout=None)
    async with openai.AsyncOpenAI(base_url=base, api_key=key or "none", max_retries=0, http_client=unbounded) as client:
        return await send_all(client, trace, ask)


def _shown(found: Json) -> str:
    lines = [f"{found['answered']} of {found['requests']} requests answered in {found['seconds']:.1f} s"]
    for name, values in found["latency_s"].items():
        figures = "no figure" if values is None else "  ".join(f"{p} {v * 1000:.1f} ms" for p, v in values.items())
        lines.append(f"{name:12}{figures}")
    lines.append(
        f"{'throughput':12}{found['requests_per_s']:.2f} requests/s, {found['output_tokens_per_s']:.1f} tokens/s"
    )
    good = found["goodput"]
    lines.append(f"{'goodput':12}{good['share']:.1%}, {good['requests_per_s']:.2f} requests/s within the limits")
    lines += [f"failed {count:5}  {kind}" for kind, count in found["failures"].items()]
    return "\n".join(lines)
