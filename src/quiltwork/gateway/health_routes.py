"""Whether the server lives, whether it takes requests, and its figures."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from quiltwork.gateway.door import admin_of, house_of
from quiltwork.gateway.errors import DrainingError
from quiltwork.gateway.measure import prometheus_page

router = APIRouter(tags=["Health"])


@router.get("/healthz", summary="Whether the process lives")
@router.get("/health", summary="Whether the process lives", include_in_schema=False)
async def health(request: Request) -> JSONResponse:
    """Always 200: whoever can answer lives."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz", summary="Whether requests are taken")
async def ready(request: Request) -> JSONResponse:
    """503 while the server is shutting down."""
    house = house_of(request)
    if house.draining:
        raise DrainingError("the server is shutting down")
    states = [hosted.state for servable in house.directory.servables.values() for hosted in servable.models()]
    return JSONResponse({"status": "ready", "models": sum(state in ("ready", "absent") for state in states)})


@router.get("/metrics", summary="Figures for Prometheus")
async def metrics(request: Request) -> Response:
    """The Servables' figures and the gateway's own. They name every tenant's models: an administrator's key."""
    admin_of(request)
    house = house_of(request)
    samples = [sample for servable in house.directory.servables.values() for sample in servable.samples()]
    for more in house.more_samples:
        samples += await asyncio.to_thread(more)
    page = prometheus_page([*samples, *house.traffic.samples()])
    return Response(page, media_type="text/plain; version=0.0.4; charset=utf-8")
