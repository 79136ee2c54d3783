"""From the parts of a Stream to an HTTP reply; a client that walks away cancels what it asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TypeVar

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from quiltwork.core.servable import Part, Stream
from quiltwork.gateway.chunks import event
from quiltwork.gateway.errors import ClientGoneError, as_quiltwork, error_object

Result = TypeVar("Result")
DONE = b"data: [DONE]\n\n"


async def in_thread(start: Callable[[], Stream]) -> Stream:
    """``start()`` in a thread: tokenising a long prompt must not hold up other requests.

    If the client goes meanwhile, the stream is cancelled once it is there.
    """
    pending = asyncio.ensure_future(asyncio.to_thread(start))
    try:
        return await asyncio.shield(pending)
    except asyncio.CancelledError:
        pending.add_done_callback(_cancel_stream)
        raise


def _cancel_stream(pending: asyncio.Future[Stream]) -> None:
    if not pending.cancelled() and pending.exception() is None:
        pending.result().cancel()


async def start_all(starts: Sequence[Callable[[], Stream]]) -> list[Stream]:
    """Start several requests; if one is refused, those before it are cancelled."""
    streams: list[Stream] = []
    try:
        for start in starts:
            streams.append(await in_thread(start))
    except BaseException:
        for stream in streams:
            stream.cancel()
        raise
    return streams


async def merged(streams: Sequence[Stream], *, patient: bool = False) -> AsyncIterator[list[tuple[int, Part]]]:
    """The parts of several streams as they come, each with the number of its stream; those that wait come together.

    The first error ends them all. Leaving early cancels them all.

    patient : whether no part of a stream is wanted before its last.
    """
    arrived: list[tuple[int, Part | BaseException | None]] = []
    some = asyncio.Event()

    async def pump(number: int, stream: Stream) -> None:
        last: BaseException | None = None
        try:
            if patient:
                arrived.extend((number, part) for part in await stream)
            else:
                async for part in stream:
                    arrived.append((number, part))
                    some.set()
        except Exception as error:  # noqa: BLE001  raised to the reader below
            last = error
        arrived.append((number, last))
        some.set()

    pumps = [asyncio.create_task(pump(number, stream)) for number, stream in enumerate(streams)]
    try:
        running = len(streams)
        while running:
            await some.wait()
            some.clear()
            taken = arrived.copy()
            arrived.clear()
            parts: list[tuple[int, Part]] = []
            error: BaseException | None = None
            for number, part in taken:
                if isinstance(part, Part):
                    parts.append((number, part))
                else:
                    running -= 1
                    error = error or part
            if parts:
                yield parts
            if error is not None:
                raise error
    finally:
        for stream in streams:
            stream.cancel()
        for task in pumps:
            task.cancel()


async def until_gone(request: Request, work: Awaitable[Result]) -> Result:
    """The result of ``work``, which is cancelled if the client goes. Raises ClientGoneError then.

    Call once per request, after its body was read.
    """
    gone = asyncio.ensure_future(_gone(request.receive))
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait((gone, working), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
            await asyncio.wait((working,))
            raise ClientGoneError("the client closed the connection")
        return working.result()
    finally:
        gone.cancel()
        working.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


class EventStream(Response):
    """Server-sent events from an async generator, which is closed when the client goes.

    ``inside`` is left when the reply has ended, however it ended.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], inside: AbstractContextManager[object]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._inside = events, inside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, an error among them where one comes, and ``[DONE]``."""
        gone = asyncio.ensure_future(_gone(receive))
        sending = asyncio.ensure_future(self._send(send))
        try:
            await asyncio.wait((gone, sending), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            gone.cancel()
            sending.cancel()
            await asyncio.wait((sending,))
            self._inside.__exit__(None, None, None)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for data in self._events:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except Exception as error:  # noqa: BLE001  the status is sent already: the client is told in the stream
            data = event(error_object(as_quiltwork(error)))
            await send({"type": "http.response.body", "body": data, "more_body": True})
        finally:
            close = getattr(self._events, "aclose", None)
            if close is not None:
                await close()
        await send({"type": "http.response.body", "body": DONE, "more_body": False})


def held(context: AbstractContextManager[None]) -> ExitStack:
    """Enter a context that may be handed on to a reply which outlives the route."""
    stack = ExitStack()
    stack.enter_context(context)
    return stack
