"""A socket, uvicorn, and an end without cutting anybody off."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

import uvicorn
from fastapi import FastAPI

from quiltwork.core.errors import BadInputError, QuiltworkError

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
GRACE_SECONDS = 30


@dataclass(frozen=True)
class Address:
    """Where to listen; port 0 lets the system choose."""

    host: str = "127.0.0.1"
    port: int = 8000


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(address: Address, *, keys: bool) -> None:
    """Raise BadInputError for an address that others can reach where there are no keys, and for no port at all."""
    if not 0 <= address.port <= 65535:
        raise BadInputError(f"{address.port} is not a port", where="--port", hint="0 to 65535")
    if not keys and not is_loopback(address.host):
        raise BadInputError(
            f"{address.host} can be reached from other machines, so keys are needed",
            where="--host",
            hint="quiltwork keys add TENANT, then --keys FILE",
        )


def listen(address: Address) -> socket.socket:
    """A bound socket. Raises QuiltworkError where the port is taken, BadInputError where there is no such host."""
    try:
        family, _, _, _, target = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise BadInputError(f"{address.host!r} is not an address of this machine", where="--host") from error
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(target)
        bound.listen(2048)
    except OSError as error:
        bound.close()
        raise QuiltworkError(
            f"cannot listen on {address.host}:{address.port}: {error.strerror}", hint="choose another --port"
        ) from error
    return bound


def url_of(bound: socket.socket) -> str:
    """The URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """Says when it listens, and lets the application know at once when it is told to end."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._app, self._ready = app, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; a second SIGINT ends at once."""
        # Not uvicorn's own: it would raise the signal again after the end, and whoever called would be killed before
        # it could close what it opened.
        self._app.state.house.draining = True
        self.force_exit = self.force_exit or (self.should_exit and sig == signal.SIGINT)
        self.should_exit = True


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of the log is more than the stack of a request cut off after the grace, which uvicorn has said."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def serve(
    app: FastAPI,
    bound: socket.socket,
    *,
    ready: Callable[[], None] = lambda: None,
    grace_seconds: int = GRACE_SECONDS,
) -> None:
    """Answer until SIGTERM or SIGINT; then take nothing new, finish what runs, for up to ``grace_seconds``, and return.

    Call it in the main thread.
    """
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=grace_seconds,
        lifespan="off",
        h11_max_incomplete_event_size=64 << 10,
    )
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    _Server(config, app, ready).run(sockets=[bound])
