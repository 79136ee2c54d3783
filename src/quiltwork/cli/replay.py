"""``quiltwork replay``: the arrivals and lengths of a recorded trace, sent to any server of OpenAI's shape."""

from __future__ import annotations

import asyncio
import math
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import openai
import typer
from rich.console import RenderableType

from quiltwork.cli.client import check_models, connect, naming_errors, pick_model
from quiltwork.cli.open_loop import Answer, Ask, send_all, summary
from quiltwork.cli.output import emit, narration, table
from quiltwork.core.errors import BadInputError
from quiltwork.core.progress import Say
from quiltwork.core.saturation import followed, knee
from quiltwork.core.servable import Json
from quiltwork.core.traces import Trace, compress_time, mean_rate, read_trace, scale_lengths

NO_LONGEST = 10**9


def replay(
    trace: Annotated[Path, typer.Argument(help="A .csv (Azure) or .jsonl (Mooncake) trace.")],
    url: Annotated[str, typer.Option(envvar="QUILTWORK_URL", help="The server.")] = "http://127.0.0.1:8000",
    key: Annotated[str | None, typer.Option(envvar="QUILTWORK_API_KEY", help="An API key.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Repeat it to deal requests out among several.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many requests.")] = None,
    speed: Annotated[float, typer.Option(help="Arrivals so many times as fast.")] = 1.0,
    rate: Annotated[
        list[float] | None,
        typer.Option(help="Arrivals so fast that there are so many a second on average. Repeat it to find the knee."),
    ] = None,
    scale: Annotated[float, typer.Option("--scale-lengths", help="Lengths times this.")] = 1.0,
    longest: Annotated[int | None, typer.Option(min=2, help="Most tokens of a prompt and its output together.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that a request gets to be answered in full.")] = 600.0,
    slo_ttft: Annotated[float, typer.Option(help="Seconds to the first token that are good.")] = math.inf,
    slo_tpot: Annotated[float, typer.Option(help="Seconds per later token that are good.")] = math.inf,
    vocabulary: Annotated[
        int | None, typer.Option(min=1, help="Send token ids below this, of exact length; else words, about one each.")
    ] = None,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Ask for full length (not every server can).")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of prompts and of the choice of models.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Send a trace's requests at their own times; latency counts from when each was meant to arrive.

    A trace has no texts: prompts are made up, as long as its own were. Exits with 1 where nothing was answered.

    With --rate it is sent once for each rate, one after the other, and the knee is told: the highest rate up to which
    answers follow arrivals.
    """
    rates = sorted(set(rate or ()))
    positive = [("--speed", speed), ("--scale-lengths", scale), ("--timeout", timeout), *(("--rate", r) for r in rates)]
    for option, value in positive:
        if not 0 < value < math.inf:
            raise BadInputError(f"{value} is not a positive number", where=option)
    for option, value in (("--slo-ttft", slo_ttft), ("--slo-tpot", slo_tpot)):
        if not value >= 0:
            raise BadInputError(f"{value} is not a number of seconds", where=option)
    if rates and speed != 1.0:
        raise BadInputError("the arrivals are as fast as either it or --rate says", where="--speed")
    requests = compress_time(read_trace(trace, limit=limit), speed)
    recorded = mean_rate(requests) if rates else 0.0
    if scale != 1.0 or longest is not None:
        requests = scale_lengths(requests, scale, longest=NO_LONGEST if longest is None else longest)
    with naming_errors(url), connect(url, key) as client:
        if model:
            check_models(client, model)
        models = model or [pick_model(client)]
        base = str(client.base_url)
    ask = Ask(models, seed, vocabulary, ignore_eos, timeout)

    def play(requests: Trace, ask: Ask, what: str) -> Json:
        with narration(what) as say:
            answers, took = asyncio.run(_replay(base, key, requests, ask, _counting(len(requests), say)))
        ends = [r.arrival + a.end for r, a in zip(requests, answers, strict=True) if a.failure is None]
        share = followed([r.arrival for r in requests], ends)
        return {**summary(answers, took, ttft=slo_ttft, tpot=slo_tpot), "followed": share}

    if not rates:
        found = {"prompts": _made(ask), **play(requests, ask, "replay")}
        emit(found, json, *_shown(found))
        if not found["answered"]:
            raise typer.Exit(1)
        return
    sweep: list[Json] = [
        # Other words at each rate: none finds its prompts computed at the one before.
        {"rate": r, **play(compress_time(requests, r / recorded), replace(ask, seed=seed + at), f"{r:g} requests/s")}
        for at, r in enumerate(rates)
    ]
    found = {"prompts": _made(ask), "knee": knee({row["rate"]: row["followed"] for row in sweep}), "rates": sweep}
    emit(found, json, *_shown_sweep(found))
    if not any(row["answered"] for row in sweep):
        raise typer.Exit(1)


async def _replay(
    base: str, key: str | None, trace: Trace, ask: Ask, told: Callable[[Answer], None]
) -> tuple[list[Answer], float]:
    # No cap on connections: a queue in the client would make arrivals wait for answers. Each takes an open file.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    unbounded = openai.DefaultAsyncHttpxClient(limits=type(openai.DEFAULT_CONNECTION_LIMITS)(max_connections=None))
    async with openai.AsyncOpenAI(
        base_url=base, api_key=key or "none", max_retries=0, timeout=None, http_client=unbounded
    ) as client:
        return await send_all(client, trace, ask, told=told)


def _counting(total: int, say: Say) -> Callable[[Answer], None]:
    done = failed = 0

    def told(answer: Answer) -> None:
        nonlocal done, failed
        done, failed = done + 1, failed + (answer.failure is not None)
        say(f"{done} of {total} requests" + (f", {failed} failed" if failed else ""))

    return told


def _made(ask: Ask) -> str:
    """How prompts were made."""
    if ask.vocabulary is None:
        return f"random common words, about one token each, as many as the trace's tokens (seed {ask.seed})"
    return f"random token ids below {ask.vocabulary}, exactly as many as the trace's tokens (seed {ask.seed})"


def _shown_sweep(found: Json) -> list[RenderableType]:
    columns = ("offered/s", "served/s", "ended as they came", "p50 ms", "p95 ms", "first token p95 ms", "goodput/s",
               "failed")  # fmt: skip
    rates = table(*columns, numbers=columns)
    for row in found["rates"]:
        late, first = row["latency_s"]["end_to_end"], row["latency_s"]["ttft"]
        times = [late and late["p50"], late and late["p95"], first and first["p95"]]
        rates.add_row(f"{row['rate']:g}", f"{row['requests_per_s']:.2f}", f"{row['followed']:.0%}",
                      *("-" if seconds is None else f"{seconds * 1000:.1f}" for seconds in times),
                      f"{row['goodput']['requests_per_s']:.2f}", str(row["requests"] - row["answered"]))  # fmt: skip
    offered = [row["rate"] for row in found["rates"]]
    if found["knee"] is None:
        told = f"knee: below {offered[0]:g} requests/s, which the server does not keep up with"
    elif found["knee"] == offered[-1]:
        told = f"knee: not below {offered[-1]:g} requests/s, the highest rate tried"
    else:
        told = f"knee: {found['knee']:g} requests/s, the highest rate up to which answers follow arrivals"
    return [f"prompts: {found['prompts']}", rates, told]


def _shown(found: Json) -> list[RenderableType]:
    latency = table("milliseconds", "p50", "p95", "p99", numbers=("p50", "p95", "p99"))
    labels = {"end_to_end": "arrival to end", "ttft": "arrival to first token", "tpot": "per later token"}
    for name, values in found["latency_s"].items():
        figures = ["-"] * 3 if values is None else [f"{value * 1000:.1f}" for value in values.values()]
        latency.add_row(labels[name], *figures)
    good = found["goodput"]
    limits = [f"{k[4:8]} {v:g} s" for k, v in good.items() if k.startswith("slo") and v is not None]
    shown: list[RenderableType] = [
        f"{found['answered']} of {found['requests']} requests answered in {found['seconds']:.1f} s",
        f"prompts: {found['prompts']}",
        latency,
        f"throughput: {found['requests_per_s']:.2f} requests/s, {found['output_tokens_per_s']:.1f} output tokens/s",
        f"goodput: {good['share']:.1%}, {good['requests_per_s']:.2f} requests/s within "
        + (" and ".join(limits) or "no limit (--slo-ttft, --slo-tpot)"),
    ]
    if found["failures"]:
        failures = table("failed", "requests", "the first of them", numbers=("requests",))
        for failure in found["failures"]:
            failures.add_row(failure["kind"], str(failure["count"]), failure["example"])
        shown.append(failures)
    return shown
