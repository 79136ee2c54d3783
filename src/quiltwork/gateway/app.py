"""The application: routes over whatever Servables it is handed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from fastapi import APIRouter, FastAPI

from quiltwork import __version__
from quiltwork.core.servable import NO_LATITUDE, Latitude, Sample, Servable
from quiltwork.gateway import admin_routes, embedding_routes, health_routes, openai_routes, page
from quiltwork.gateway.directory import Directory
from quiltwork.gateway.door import Door, House
from quiltwork.gateway.errors import install_error_handlers
from quiltwork.gateway.limits import Limits, Turnstile
from quiltwork.gateway.measure import Traffic
from quiltwork.gateway.openapi import complete
from quiltwork.gateway.task_routes import task_router
from quiltwork.gateway.tenants import KeyFile
from quiltwork.zoo import Zoo


def create_app(
    servables: Mapping[str, Servable],
    *,
    zoo: Zoo | None = None,
    keys: KeyFile | None = None,
    limits: Limits | None = None,
    hosts: Set[str] | None = None,
    latitude: Latitude = NO_LATITUDE,
    routers: Sequence[APIRouter] = (),
    more_samples: Sequence[Callable[[], Sequence[Sample]]] = (),
    clock: Callable[[], float] = time.monotonic,
    wall_clock: Callable[[], float] = time.time,
) -> FastAPI:
    """An ASGI application.

    Parameters
    ----------
    servables : who answers, by a name to show. They are not closed with the application.
    zoo : where adapters are added to; None where nothing may be added.
    keys : who may come in; None for everybody, as an administrator.
    limits : what is let through.
    hosts : the names that requests may address the server by, so that a page that had its own name point here gets
        nothing; None for any.
    latitude : what everybody may ask for where there are no keys; with keys it is each key's own.
    routers, more_samples : other routes behind the same door, and whoever else has figures for Prometheus.
    clock, wall_clock : seconds, monotonic and since 1970.
    """
    directory = Directory(servables)
    limits = limits or Limits()
    house = House(
        directory, zoo, keys, limits, clock, wall_clock, Traffic(), Turnstile(limits, clock), started=wall_clock(),
        latitude=latitude, more_samples=more_samples,
    )  # fmt: skip
    app = FastAPI(title="Quiltwork", version=__version__, docs_url=None, redoc_url=None)
    app.state.house = house
    install_error_handlers(app)
    own = (page.router, health_routes.router, openai_routes.router, embedding_routes.router, admin_routes.router)
    for router in own:
        app.include_router(router)
    for router in routers:
        app.include_router(router)
    app.include_router(task_router(directory))
    app.add_middleware(Door, house=house, hosts=frozenset(hosts) if hosts is not None else None)
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        return complete(plain(), directory, keys=keys is not None)

    app.openapi = openapi  # type: ignore[method-assign]
    return app
