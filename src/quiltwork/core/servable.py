"""The seam between what serves models and the doors they are asked through.

A Servable hosts many models of one kind, so that sharing between them stays inside it. It declares its tasks as
JSON Schemas; whoever stands at the door (gateway, command line, another process) validates against those and never
needs code of its own for a new option.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, runtime_checkable

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.core.names import PUBLIC, ModelRef

Json = Any
"""A JSON value: None, bool, int, float, str, list or dict of these."""
LEAST_AGREEMENT = 0.97
"""Of a stand-in with the exact model, where nobody says otherwise (see ``Latitude``)."""


@dataclass(frozen=True)
class TaskSchema:
    """What one task of a Servable takes and gives, each as a JSON Schema of an object.

    Binary fields are strings with ``contentEncoding: base64`` and a ``contentMediaType``; over HTTP they may also
    arrive as multipart files, and they reach the Servable as bytes in ``Input.blobs``, never as text.
    An option with ``"x-changes-state": true`` alters cached state (an adapter's scale, experts per token, prompt
    words) and must enter the key of every cache that holds what the model computed.
    """

    input: Mapping[str, Json]
    output: Mapping[str, Json]
    options: Mapping[str, Json]
    streams: bool = False
    """Whether more than one part may come before the last."""

    def state_options(self) -> tuple[str, ...]:
        """Names of the options that change cached state, sorted."""
        declared = self.options.get("properties", {})
        return tuple(sorted(name for name, schema in declared.items() if schema.get("x-changes-state")))


@dataclass(frozen=True)
class Input:
    """What a request hands in: the task, its fields, and its binary fields apart."""

    task: str
    fields: Mapping[str, Json]
    blobs: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One piece of a reply. ``last`` marks the end; usage and what served the reply travel in the last part."""

    fields: Mapping[str, Json]
    blobs: Mapping[str, bytes] = field(default_factory=dict)
    last: bool = False


@dataclass(frozen=True, kw_only=True)
class Latitude:
    """How far answers may be from the exact model's own, for the sake of speed; nowhere where nothing is said.

    Raises BadInputError naming what is out of range.
    """

    quality_budget: float = 0.0
    """Nats per token that answers may lose where an adapted model stands in; 0 for the exact model alone."""
    least_agreement: float = LEAST_AGREEMENT
    """Least share of tokens for which a stand-in must have been judged to think the same next one most likely."""
    relaxed_speculation: bool = False
    """Whether a draft may have a say in answers, where that is asked for."""

    def __post_init__(self) -> None:
        for name, most in (("quality_budget", math.inf), ("least_agreement", 1.0)):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not (0 <= value <= most and value < math.inf):
                bounds = "from 0 up" if most == math.inf else "from 0 to 1"
                raise BadInputError(f"{value!r} is not a number {bounds}", where=name)
        if not isinstance(self.relaxed_speculation, bool):
            raise BadInputError("must be true or false", where="relaxed_speculation")

    def granted(self) -> dict[str, Json]:
        """Its fields by name: to hand it on, or to write it down."""
        return {one.name: getattr(self, one.name) for one in fields(Latitude)}


NO_LATITUDE = Latitude()
"""Answers are the exact model's own."""


@dataclass(frozen=True)
class Caller(Latitude):
    """Who asks: decides which cached state may be shared, and whose quota is charged."""

    tenant: str = PUBLIC
    request_id: str = ""


class Stream:
    """The parts of one reply, handed from the thread that computes to the one that reads.

    Like a till receipt: the producer prints, the reader tears off; the reader may walk away (``cancel``), and the
    producer is told at once. Iterate it (``for``) in a thread or (``async for``) in an event loop, not both; a reader
    that needs no part before the last sleeps until then (``wait()`` or ``await``), which spares a wake-up for each.
    An error given to ``fail`` is raised to the reader after the parts that came before it.
    """

    def __init__(self, on_cancel: Callable[[], None] | None = None) -> None:
        self._parts: deque[Part] = deque()
        self._error: BaseException | None = None
        self._closed = False
        self._cancelled = False
        self._on_cancel = on_cancel
        self._ready = threading.Condition()
        self._wake: Callable[[], None] | None = None
        self._patient = False

    @property
    def cancelled(self) -> bool:
        """Whether the reader has walked away."""
        return self._cancelled

    @property
    def patient(self) -> bool:
        """Whether the reader wants nothing before the end: a producer may then make fewer, longer parts."""
        return self._patient

    def put(self, part: Part) -> None:
        """Hand over one part; a part marked ``last`` closes the stream. After cancellation it is dropped."""
        self._deliver(part, None, part.last)

    def fail(self, error: BaseException) -> None:
        """Close the stream with an error."""
        self._deliver(None, error, True)

    def cancel(self) -> None:
        """Walk away: the producer is told once, and the stream ends. Harmless after the end."""
        with self._ready:
            if self._closed or self._cancelled:
                return
            self._cancelled = self._closed = True
            self._parts.clear()
            self._ready.notify_all()
            wake = self._wake
        if wake is not None:
            wake()
        if self._on_cancel is not None:
            self._on_cancel()

    def _deliver(self, part: Part | None, error: BaseException | None, close: bool) -> None:
        with self._ready:
            if self._closed:
                return
            if part is not None:
                self._parts.append(part)
            self._error = error
            self._closed = close
            if self._patient and not close:
                return
            self._ready.notify_all()
            wake = self._wake
        if wake is not None:
            wake()

    def _take(self) -> Part | None:
        """The next part, or None if there is none yet; raises the error, or StopIteration at the end."""
        if self._parts:
            return self._parts.popleft()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._closed:
            raise StopIteration
        return None

    def wait(self) -> list[Part]:
        """All parts that are left, once the last has come. Raises what was given to ``fail``."""
        with self._ready:
            self._patient = True
            self._ready.wait_for(lambda: self._closed)
        return list(self)

    def __await__(self) -> Generator[Any, None, list[Part]]:
        return self._all().__await__()

    async def _all(self) -> list[Part]:
        with self._ready:
            self._patient = True
        return [part async for part in self]

    def __iter__(self) -> Iterator[Part]:
        while True:
            with self._ready:
                try:
                    part = self._take()
                    while part is None:
                        self._ready.wait()
                        part = self._take()
                except StopIteration:
                    return
            yield part

    async def __aiter__(self) -> AsyncIterator[Part]:
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            # The loop may close between the reader's end and the producer's last word; nobody is left to be woken.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(arrived.set)

        with self._ready:
            self._wake = wake
        try:
            while True:
                arrived.clear()
                with self._ready:
                    try:
                        part = self._take()
                    except StopIteration:
                        return
                if part is None:
                    await arrived.wait()
                else:
                    yield part
        finally:
            with self._ready:
                self._wake = None


@dataclass(frozen=True)
class Hosted:
    """One model as a Servable holds it: what ``/v1/models`` shows."""

    ref: ModelRef
    state: str
    """``ready``, ``loading``, ``draining``, or ``absent``: requests are taken, and the first one has it loaded."""
    info: Mapping[str, Json] = field(default_factory=dict)
    """Facts to show: family, parent, context length, tokenizer's origin."""


@dataclass(frozen=True)
class Sample:
    """One measurement for a metrics page, named as Prometheus names it (base units, ``_total`` for counters)."""

    name: str
    kind: str
    """``counter``, ``gauge`` or ``histogram``."""
    help: str
    value: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)
    buckets: Sequence[tuple[float, int]] = ()
    """For a histogram: cumulative counts by upper bound; ``value`` is then the sum and the last bound is +inf."""


@runtime_checkable
class Servable(Protocol):
    """Hosts many models of one kind and answers requests for any of them."""

    kind: str

    def tasks(self) -> Mapping[str, TaskSchema]:
        """The tasks by name (``completion``, ``chat``, ``pose``, ``similarity`` ...)."""
        ...

    def models(self) -> Sequence[Hosted]:
        """What is loaded now."""
        ...

    def takes(self, ref: ModelRef) -> bool:
        """Whether a zoo model is of the kind hosted here; ``load`` may still say that it is not implemented. Of several
        Servables one takes a model. Raises NotFoundError."""
        ...

    def load(self, ref: ModelRef) -> None:
        """Make a zoo model ready to serve. Loading a name again upgrades it: running requests finish on the old
        version. Raises NotFoundError, UnsupportedError (what is not implemented, by name), CapacityError."""
        ...

    def unload(self, ref: ModelRef) -> None:
        """Take no new requests for the model, finish the running ones, free what only it used. Raises NotFoundError."""
        ...

    def submit(self, model: ModelRef, input: Input, options: Mapping[str, Json], *, caller: Caller) -> Stream:
        """Start a request; returns at once. Raises BadInputError, NotFoundError or CapacityError before anything
        runs; later errors come through the stream. Cancelling the stream frees everything the request held."""
        ...

    def samples(self) -> Sequence[Sample]:
        """Its metrics as they stand now."""
        ...

    def status(self) -> Mapping[str, Json]:
        """A live picture for the dashboard: queue, batches, caches, which models share which blocks."""
        ...

    def close(self, *, drain_seconds: float = 0.0) -> None:
        """Stop: let running requests finish for up to ``drain_seconds``, then cancel them."""
        ...


@runtime_checkable
class Explains(Protocol):
    """What a Servable may do besides: say how its models are made up."""

    def explain(self, model: ModelRef, *, tenant: str | None) -> Mapping[str, Json]:
        """The parts of a model, who shares them, where it is cut, what was substituted.

        tenant : who is told: models of others are counted and never named. None for an administrator.

        Raises NotFoundError where it is not loaded, or not ``tenant``'s to see.
        """
        ...


@runtime_checkable
class Offers(Protocol):
    """What a Servable may do besides: serve more models than its memory holds."""

    def offer(self, ref: ModelRef) -> None:
        """Take requests for a model without loading it: the first one has it loaded, and idle ones go for it.

        Raises what ``load`` raises; CapacityError where it does not fit even alone.
        """
        ...

    def pin(self, ref: ModelRef, pinned: bool = True) -> None:
        """Load a model and keep it loaded whatever else is asked for; or let it go again when room is needed.

        Raises what ``load`` raises.
        """
        ...


def taker(servables: Mapping[str, Servable], ref: ModelRef) -> Servable:
    """The Servable that takes a zoo model. Raises UnsupportedError where none does, NotFoundError."""
    for servable in servables.values():
        if servable.takes(ref):
            return servable
    kinds = ", ".join(servable.kind for servable in servables.values()) or "none"
    raise UnsupportedError(f"{ref} is of no kind that is served here", where="model", hint=f"served are: {kinds}")
