"""What every request passes: a request id, a host check, a count. And what a route asks about it."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import NO_LATITUDE, Caller, Latitude, Sample
from quiltwork.gateway.directory import Directory
from quiltwork.gateway.errors import DrainingError, ForbiddenError, as_quiltwork, error_response
from quiltwork.gateway.limits import Limits, Turnstile
from quiltwork.gateway.measure import Traffic
from quiltwork.gateway.tenants import KeyFile, Visitor
from quiltwork.zoo import Zoo

access = logging.getLogger("quiltwork.access")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass
class House:
    """What the routes share: handed in once, found at ``app.state.house``."""

    directory: Directory
    zoo: Zoo | None
    keys: KeyFile | None
    limits: Limits
    clock: Callable[[], float]
    """Seconds, monotonic."""
    wall_clock: Callable[[], float]
    """Seconds since 1970."""
    traffic: Traffic
    turnstile: Turnstile
    started: float = 0.0
    """When it was opened, by the wall clock."""
    latitude: Latitude = NO_LATITUDE
    """What visitors may ask for where there are no keys."""
    draining: bool = False
    more_samples: Sequence[Callable[[], Sequence[Sample]]] = ()
    """Whoever else has figures for Prometheus."""


def house_of(request: Request) -> House:
    """The server's shared state."""
    found: House = request.app.state.house
    return found


def visitor_of(request: Request) -> Visitor:
    """Who asks. Without keys everybody is an administrator: then the server listens to this machine only.

    Raises UnauthorizedError, or DrainingError while the server is shutting down.
    """
    house = house_of(request)
    if house.keys is None:
        visitor = Visitor(admin=True, **house.latitude.granted())
    else:
        visitor = house.keys.visitor(request.headers.get("authorization"))
    if house.draining:
        raise DrainingError("the server is shutting down", hint="try another one")
    return visitor


def admin_of(request: Request) -> Visitor:
    """Who asks, an administrator. Raises UnauthorizedError or ForbiddenError."""
    visitor = visitor_of(request)
    if not visitor.admin:
        raise ForbiddenError("this needs an administrator's key", where="Authorization")
    return visitor


def caller_of(request: Request, visitor: Visitor) -> Caller:
    """The visitor as Servables know one."""
    return Caller(visitor.tenant, request.state.request_id, **visitor.granted())


class Door:
    """ASGI middleware: gives each request its id, counts it, and turns what nobody caught into an error object."""

    def __init__(self, app: ASGIApp, *, house: House, hosts: frozenset[str] | None) -> None:
        self._app, self._house, self._hosts = app, house, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get(b"x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = request_id
        house, started = self._house, self._house.clock()
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        house.traffic.began()
        try:
            if self._hosts is not None and _host(headers.get(b"host", "")) not in self._hosts:
                error = BadInputError("is not a name of this server", where="Host", hint="serve with --keys")
                await error_response(error)(scope, receive, answer)
            else:
                await self._app(scope, receive, answer)
        except Exception as error:
            if status:
                raise
            await error_response(as_quiltwork(error))(scope, receive, answer)
        finally:
            route = _route(scope)
            house.traffic.ended(route, scope["method"], status, house.clock() - started)
            state: dict[str, Any] = scope["state"]
            details = {"request_id": request_id, "status": status, "route": route, **state.get("access", {})}
            access.info("%s", " ".join(f"{name}={value!r}" for name, value in details.items()))


def _host(header: str) -> str:
    name = header.rsplit(":", 1)[0] if re.search(r":\d+$", header) else header
    return name.strip("[]").lower()


def _route(scope: Scope) -> str:
    """The route's pattern, so that unknown paths do not make a metric each."""
    path = getattr(scope.get("route"), "path", None)
    return str(path) if path is not None else "other"
