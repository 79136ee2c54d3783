"""Traces of real requests: when they came, how long they were, which models were asked for.

Readers of the published formats, and the few transformations that a replay or a benchmark needs. Nothing here knows
what text a request had; the traces have none.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TypeVar

from quiltwork.core.errors import BadInputError
from quiltwork.core.rows import csv_rows, lines
from quiltwork.core.servable import Json

_COUNT = re.compile(r"[0-9]{1,9}", re.ASCII)
_TIME = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(\.\d{1,9})?(\+00:00|Z)?", re.ASCII)
_LARGEST = 10**9
_GENTD26 = "checkpoint_model_version_id"
T = TypeVar("T")


@dataclass(frozen=True)
class TraceRequest:
    """One request of a trace."""

    arrival: float
    """Seconds after the trace's first request."""
    prompt_tokens: int
    output_tokens: int
    prefix_blocks: tuple[int, ...] = ()
    """Ids of its prompt's blocks of 512 tokens; requests with equal first ids begin with the same words."""


Trace = tuple[TraceRequest, ...]


def read_azure(path: str | Path, *, limit: int | None = None) -> Trace:
    """A trace of Azure's LLM inference dataset of 2023: CSV with ``TIMESTAMP,ContextTokens,GeneratedTokens``.

    limit : read no more than the first so many rows. Raises BadInputError naming the file and the line.
    """
    columns = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
    requests, start = [], None
    for row, where in islice(csv_rows(Path(path), columns), limit):
        at = _seconds(row[columns[0]], where)
        start = at if start is None else start
        prompt, output = (_count(row[name], f"{where}: {name}") for name in columns[1:])
        requests.append(TraceRequest(at - start, prompt, output))
    return _ordered(requests, Path(path))


def read_mooncake(path: str | Path, *, limit: int | None = None) -> Trace:
    """A trace of Mooncake (FAST '25): JSON lines with ``timestamp`` (ms), ``input_length``, ``output_length`` and
    ``hash_ids``, one for each 512 tokens of the prompt.

    limit : read no more than the first so many lines. Raises BadInputError naming the file and the line.
    """
    requests, start = [], None
    for line, where in islice(lines(Path(path)), limit):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadInputError("is not JSON", where=where) from error
        if not isinstance(row, dict):
            raise BadInputError("is not an object", where=where)
        blocks = row.get("hash_ids", [])
        if not isinstance(blocks, list) or not all(type(block) is int for block in blocks):
            raise BadInputError("is not a list of whole numbers", where=f"{where}: hash_ids")
        at = _whole(row, "timestamp", where) / 1000
        start = at if start is None else start
        prompt, output = (_whole(row, name, where) for name in ("input_length", "output_length"))
        requests.append(TraceRequest(at - start, prompt, output, tuple(blocks)))
    return _ordered(requests, Path(path))


def read_trace(path: str | Path, *, limit: int | None = None) -> Trace:
    """A trace in either format, told apart by the file's name: ``.csv`` or ``.jsonl``."""
    readers: Mapping[str, Callable[..., Trace]] = {".csv": read_azure, ".jsonl": read_mooncake}
    reader = readers.get(Path(path).suffix.lower())
    if reader is None:
        raise BadInputError("is neither .csv (Azure) nor .jsonl (Mooncake)", where=str(path))
    return reader(path, limit=limit)


def read_gentd_popularity(path: str | Path, *, column: str = _GENTD26) -> tuple[tuple[str, float], ...]:
    """Which base models the tenants of GenTD26 asked for: (model id, share of requests), the most popular first.

    column : what is counted: base models, or ``groupId`` for the tenants who asked.

    From ``lora_request_trace.csv`` of Alibaba's cluster-trace-v2026-GenAI. The few requests that name no model are left
    out; shares sum to 1. Raises BadInputError.
    """
    counts: Counter[str] = Counter()
    for row, _ in csv_rows(Path(path), (column,)):
        if row[column]:
            counts[row[column]] += 1
    total = counts.total()
    if total == 0:
        raise BadInputError("has no requests", where=str(path))
    # Equally popular ones by name, so that the order does not hang on that of the file.
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple((model, count / total) for model, count in ranked)


def shares_of(apps: Sequence[str], popularity: Sequence[tuple[str, float]], *, seed: int) -> dict[str, float]:
    """How popular each of ``apps`` is, if the ranks of ``popularity`` are dealt out by a shuffle; shares sum to 1.

    The most popular ``len(apps)`` ranks are used. Raises BadInputError where there are fewer.
    """
    if not apps or len(popularity) < len(apps):
        raise BadInputError(f"{len(popularity)} ranks for {len(apps)} applications", where="popularity")
    shuffled = random.Random(f"shares/{seed}").sample(list(apps), len(apps))
    top = [share for _, share in popularity[: len(apps)]]
    total = math.fsum(top)
    return {app: share / total for app, share in zip(shuffled, top, strict=True)}


def choose(shares: Mapping[str, float], count: int, *, seed: int) -> list[str]:
    """``count`` names, each drawn for itself with the given shares."""
    return random.Random(f"choose/{seed}").choices(list(shares), list(shares.values()), k=count)


def scale_lengths(trace: Trace, factor: float, *, longest: int) -> Trace:
    """Prompt and output lengths times ``factor``, at least one token each, together no more than ``longest``.

    The prompt is cut first, to leave the output a token. Prefix blocks, which count in tokens of the original, are
    dropped. Raises BadInputError where ``longest`` is less than 2 or ``factor`` not positive.
    """
    if longest < 2 or not 0 < factor < math.inf:
        raise BadInputError(f"lengths times {factor} up to {longest}", where="trace")

    def scaled(request: TraceRequest) -> TraceRequest:
        prompt = min(max(round(request.prompt_tokens * factor), 1), longest - 1)
        output = min(max(round(request.output_tokens * factor), 1), longest - prompt)
        return TraceRequest(request.arrival, prompt, output)

    return tuple(map(scaled, trace))


def compress_time(trace: Trace, factor: float) -> Trace:
    """Arrivals ``factor`` times as fast. Raises BadInputError where that is not a positive number."""
    if not 0 < factor < math.inf:
        raise BadInputError(f"{factor} times as fast", where="trace")
    return tuple(replace(request, arrival=request.arrival / factor) for request in trace)


def mean_rate(trace: Trace) -> float:
    """Requests per second between the first arrival and the last. Raises BadInputError where no time passes."""
    if len(trace) < 2 or trace[-1].arrival <= trace[0].arrival:
        raise BadInputError("has no rate: all its requests come at once", where="trace")
    return (len(trace) - 1) / (trace[-1].arrival - trace[0].arrival)


def _ordered(requests: list[TraceRequest], path: Path) -> Trace:
    if not requests:
        raise BadInputError("has no requests", where=str(path))
    ordered = sorted(requests, key=lambda request: request.arrival)
    first = ordered[0].arrival
    return tuple(replace(request, arrival=request.arrival - first) for request in ordered)


def _seconds(text: str, where: str) -> float:
    """``2023-11-16 18:15:46.6805900`` as seconds, to the last digit given."""
    match = _TIME.fullmatch(text)
    try:
        if match is not None:
            whole = datetime.fromisoformat(match[1]).replace(tzinfo=UTC)
            return whole.timestamp() + float(match[2] or 0)
    except ValueError:  # the 31st of February
        match = None
    raise BadInputError(f"{text[:40]!r} is not a time", where=f"{where}: TIMESTAMP")


def _count(text: str, where: str) -> int:
    if _COUNT.fullmatch(text) is None:
        raise BadInputError(f"{text[:40]!r} is not a number of tokens", where=where)
    return int(text)


def _whole(row: Mapping[str, Json], name: str, where: str) -> int:
    value = row.get(name)
    if type(value) is not int or not 0 <= value <= _LARGEST * 1000:
        raise BadInputError(f"{str(value)[:40]!r} is not a whole number", where=f"{where}: {name}")
    return value
