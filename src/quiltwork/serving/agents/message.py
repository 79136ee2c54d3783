"""Everything that crosses between agents and the front: plain records, and their bytes.

A message is a JSON header and the bytes of its tensor. Nothing in it is executed on reading.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from quiltwork.core.errors import CorruptionError
from quiltwork.core.servable import Json
from quiltwork.serving.experts import Spent, spent_together

FRONT = "front"
"""The name of the place where requests enter and tokens leave."""


@dataclass(frozen=True)
class Hop:
    """What one agent did for a piece of work: for whoever asked for an explanation."""

    agent: str
    segments: tuple[int, int]
    kv: str
    waited_s: float
    ran_s: float
    batch_rows: int
    batch_sequences: int
    batch_models: int


@dataclass(frozen=True)
class Run:
    """Compute consecutive tokens of a request from one segment on."""

    request: int
    """Negative for one that drafts for the request of that number: it gives way to all others."""
    epoch: int
    """Raised whenever the front sends the same tokens again: what comes back with a lower one is ignored."""
    layout: int
    segment: int
    """Index of the segment to enter."""
    start: int
    """Position of the first row."""
    settled: int
    """Rows before this position have been computed above already: only who lacks their state needs them."""
    rows: Tensor
    """(count,) int64 token ids at the bottom, (count, d) hidden state above it."""
    wants: int
    """Logits wanted at the end, of the last rows."""
    work_class: int
    first: int
    """Position of the first token that is computed at all; those before it are a copied prefix."""
    prompt_len: int
    visited: tuple[str | None, ...]
    """Per segment, the agent that holds the request's keys and values there."""
    hashes: tuple[str, ...] = ()
    """Of pages that these rows complete."""
    hashes_from: int = 0
    """Number of the first of those pages."""
    scale: float = 1.0
    options: Mapping[str, Json] = field(default_factory=dict)
    steps: int = 1
    """How often the sequence will come by, this time included, as far as can be told."""
    kv: str = "none"
    """How it gets at its keys and values: a ``KVChoice``."""
    fetch_from: str | None = None
    """Whose keys and values to fetch first."""
    fetch_upto: int = 0
    """Index behind the last segment to fetch them for."""
    traced: bool = False
    path: tuple[Hop, ...] = ()
    certain: int | None = None
    """Position from which on its tokens are guesses, which the front may refuse; None where none of them is."""
    spent: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    """What its rows took so far on their way up, by name: sum and count (see ``experts.Spent``)."""


@dataclass(frozen=True)
class Output:
    """A piece of work has reached the end of its chain."""

    request: int
    epoch: int
    end: int
    """Position behind its last row."""
    visited: tuple[str | None, ...]
    rows: Tensor
    """(wants, vocabulary) float32 logits; no rows where none were wanted."""
    reused: int = 0
    """Tokens of it that no agent had to compute."""
    path: tuple[Hop, ...] = ()
    spent: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    """What its rows took, as in ``Run``."""


@dataclass(frozen=True)
class Lack:
    """An agent cannot go on with a request: keys and values, or the inputs to compute them from, are gone."""

    request: int
    epoch: int
    segment: int
    """From here up the state has to be made again."""
    everything: bool
    """Whether its inputs are missing too, so that only a start from the first token helps."""


@dataclass(frozen=True)
class Failed:
    """Something went wrong at an agent that sending again would not mend."""

    agent: str
    request: int
    """0 where it concerns no request."""
    epoch: int
    what: str


@dataclass(frozen=True)
class Release:
    """Forget what is held for a request."""

    request: int


@dataclass(frozen=True)
class DropState:
    """Lose what is held for a request that goes on: its memory is needed, or somebody wants to see what happens."""

    request: int


@dataclass(frozen=True)
class AskKV:
    """Send the pages of a request's first ``tokens`` tokens at some segments."""

    request: int
    epoch: int
    segments: tuple[int, int]
    tokens: int
    to: str


@dataclass(frozen=True)
class Pages:
    """Pages of one segment, a piece of them at a time."""

    request: int
    epoch: int
    segment: int
    tokens: int
    """Tokens whose pages come in all; 0 where the sender has none (any more)."""
    page: int
    """Number of the first page in this piece."""
    rows: Tensor
    """(pages, attention blocks, 2, kv heads, PAGE_TOKENS, head_dim)."""
    checksum: str = ""


@dataclass(frozen=True)
class Lay:
    """Hold segments of a model; and who else does."""

    layout: int
    model: str
    version: str
    bounds: tuple[int, ...]
    """Segment i is the chain's links bounds[i] to bounds[i + 1]."""
    holders: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Laid:
    """An agent holds what it was told to hold, or says why not."""

    layout: int
    agent: str
    nbytes: int
    """Bytes of weights in the agent's memory now."""
    error: str = ""
    page_bytes: tuple[int, ...] = ()
    """Per segment it holds (0 elsewhere), bytes of one page of keys and values."""


@dataclass(frozen=True)
class Forget:
    """No more requests will come for a layout."""

    layout: int


@dataclass(frozen=True)
class Beat:
    """An agent is alive, and how it stands."""

    agent: str
    queue_s: float
    """Seconds that its queues will take."""
    waiting: int
    kv_free: int
    kv_capacity: int
    weight_bytes: int
    steps: int
    hops: int
    prefill_token_layers: int
    kv_moved_bytes: int
    kv_moves: int
    kv_recomputed: int
    kv_dropped: int
    busy_s: float
    kv_move_s: float = 0.0
    """Seconds from asking for pages until all were here, all moves together."""
    kv_expected_s: float = 0.0
    """Seconds that these moves had been expected to take."""
    handling: tuple[float, float] = (0.0, 0.0)
    """What a move to it costs beyond the link: seconds each, seconds per byte (see ``policy.cost.Handling``)."""
    queues: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Per segment id: waiting rows, rows run, batches, p95 of seconds waited."""
    batches: tuple[tuple[int, int, int, int], ...] = ()
    """Of the last step: blocks, rows, sequences, models of each batch."""


@dataclass(frozen=True)
class Batches:
    """Batches that an agent has executed since it told of them last, where a log of them is kept."""

    agent: str
    segments: tuple[tuple[str, str, str, int], ...]
    """Those they ran through: id, names of the first and the last link, blocks."""
    models: tuple[str, ...]
    """Those whose sequences they held."""
    batches: tuple[tuple[float, int, int, tuple[tuple[int, int], ...]], ...]
    """Of each: seconds from its start to this letter, its segment, its rows, and (model, sequences) pairs; segments and
    models by their place in the lists above."""
    left_out: int = 0
    """Batches that there was no room for."""


@dataclass(frozen=True)
class Standings:
    """How everybody stands: what dispatch decides by."""

    queue_s: Mapping[str, float]
    waiting: Mapping[str, int]
    gone: tuple[str, ...] = ()
    born: Mapping[str, int] = field(default_factory=dict)
    """How often each place was started: whose letters go to a new one."""
    handling: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """What a move to each costs beyond the link; see ``Beat``."""


@dataclass(frozen=True)
class Stop:
    """End."""


Message = (
    Run
    | Output
    | Lack
    | Failed
    | Release
    | DropState
    | AskKV
    | Pages
    | Lay
    | Laid
    | Forget
    | Beat
    | Batches
    | Standings
    | Stop
)
_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (Run, Output, Lack, Failed, Release, DropState, AskKV, Pages, Lay, Laid, Forget, Beat, Batches,
                 Standings, Stop)
}  # fmt: skip
_NO_ROWS = torch.empty(0)
_HEAD = struct.Struct("<I")
_ALIGN = 64
"""A tensor's bytes begin at a multiple of this, so that they can be used where they lie."""
_DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.bfloat16, torch.float16, torch.int64)}


def to_parts(message: Message) -> tuple[memoryview, memoryview]:
    """A message as two runs of bytes; the second is the memory of its tensor, which must not change any more."""
    rows: Tensor = getattr(message, "rows", _NO_ROWS)
    tensor = rows.detach().to("cpu").contiguous()
    head: dict[str, Any] = {"kind": type(message).__name__}
    for f in fields(message):
        if f.name != "rows":
            value = getattr(message, f.name)
            head[f.name] = [asdict(hop) for hop in value] if f.name == "path" else value
    if hasattr(message, "rows"):
        head["rows"] = [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
    text = json.dumps(head, separators=(",", ":")).encode()
    if not tensor.numel():
        return memoryview(_HEAD.pack(len(text)) + text), memoryview(b"")
    text += b" " * (-(_HEAD.size + len(text)) % _ALIGN)
    body: memoryview = tensor.view(-1).view(torch.uint8).numpy().data
    return memoryview(_HEAD.pack(len(text)) + text), body


def to_bytes(message: Message) -> bytes:
    """A message as bytes."""
    return b"".join(to_parts(message))


def from_bytes(data: bytes | bytearray) -> Message:
    """The message in ``data``. Its tensor lies in the memory of ``data`` where that is a bytearray, else in its own.

    Raises CorruptionError where it is none.
    """
    view = memoryview(data)
    try:
        (length,) = _HEAD.unpack_from(view)
        head = json.loads(bytes(view[_HEAD.size : _HEAD.size + length]))
        kind = _KINDS[head.pop("kind")]
        values = {name: _tupled(value) for name, value in head.items()}
        if "rows" in head:
            values["rows"] = _rows(data, _HEAD.size + length, *head["rows"])
        if "spent" in head:
            values["spent"] = {str(name): (float(total), int(count)) for name, (total, count) in head["spent"].items()}
        if "path" in head:
            values["path"] = tuple(Hop(**{**hop, "segments": tuple(hop["segments"])}) for hop in head["path"])
        message: Message = kind(**values)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CorruptionError(f"is not a message: {error}", where="agent link") from error
    return message


def _rows(data: bytes | bytearray, at: int, dtype: str, shape: list[int]) -> Tensor:
    """The tensor whose bytes are those of ``data`` from ``at`` on."""
    rows, left = torch.empty(0, dtype=_DTYPES[dtype]), len(data) - at
    if any(size < 0 for size in shape) or math.prod(shape) * rows.element_size() != left:
        raise ValueError(f"{left} bytes are no {shape} of {dtype}")
    if left:
        rows = torch.frombuffer(data if isinstance(data, bytearray) else bytearray(data), dtype=rows.dtype, offset=at)
    return rows.view(shape)


def _tupled(value: Any) -> Any:
    return tuple(_tupled(v) for v in value) if isinstance(value, list) else value


def with_spent(run: Run, spent: Mapping[str, Spent]) -> dict[str, tuple[float, int]]:
    """What a run's rows took before, and have taken now."""
    together = spent_together(({name: Spent(*pair) for name, pair in run.spent.items()}, spent))
    return {name: (one.total, one.count) for name, one in together.items()}


def with_hop(run: Run, hop: Hop) -> tuple[Hop, ...]:
    """The hops of a traced run with one more; nothing where nobody asked."""
    return (*run.path, hop) if run.traced else ()
