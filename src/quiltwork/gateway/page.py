"""The first page: the quilt of models and blocks, live latency and batches. No build, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from quiltwork import __version__
from quiltwork.core.errors import NotFoundError
from quiltwork.core.servable import Json
from quiltwork.gateway.door import house_of, visitor_of

router = APIRouter(tags=["Page"])

_STATIC = {
    "quilt.css": "text/css", "quilt.js": "text/javascript", "icon.svg": "image/svg+xml",
    "cluster.css": "text/css", "cluster.js": "text/javascript",
}  # fmt: skip
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@router.get("/", include_in_schema=False)
async def first_page(request: Request) -> HTMLResponse:
    """The page's frame. It holds no figures, so it needs no key; its script asks for one where one is needed."""
    return page_response("index.html")


def page_response(name: str) -> HTMLResponse:
    """A page of the static files."""
    return HTMLResponse(_static(name).replace("{{version}}", escape(__version__)), headers=_HEADERS)


@router.get("/static/{name}", include_in_schema=False)
async def static_file(name: str) -> Response:
    """A file of the page."""
    if name not in _STATIC:
        raise NotFoundError(f"there is no /static/{name[:100]}")
    return Response(_static(name), media_type=_STATIC[name], headers=_HEADERS)


def _static(name: str) -> str:
    return files("quiltwork.gateway").joinpath("static", name).read_text(encoding="utf-8")


@router.get("/v1/status", summary="What the first page shows, as JSON")
async def status(request: Request) -> JSONResponse:
    """Models and who shares their blocks, queue, batches, latency; of what the key may see."""
    visitor, house = visitor_of(request), house_of(request)
    everything = visitor.admin
    return JSONResponse(
        {
            "version": __version__,
            "uptime_seconds": round(house.wall_clock() - house.started, 1),
            "draining": house.draining,
            "latency": house.traffic.recent(None if everything else visitor.tenant),
            "servables": {
                name: {
                    "kind": servable.kind,
                    **visible_status(servable.status(), visitor.tenant, everything=everything),
                }
                for name, servable in house.directory.servables.items()
            },
        }
    )


def visible_status(status: Mapping[str, Json], tenant: str, *, everything: bool) -> dict[str, Json]:
    """A Servable's picture without what belongs to other tenants: their rows, and how many share with them."""
    shown = dict(status)
    if everything:
        return shown
    rows = [row for row in status.get("models", ()) if row.get("tenant") in (tenant, "public")]
    owners: dict[str, int] = {}
    for row in rows:
        for block in {cell["block"] for cell in row.get("cells", ())}:
            owners[block] = owners.get(block, 0) + 1
    if "tenants" in status:
        shown["tenants"] = [row for row in status["tenants"] if row.get("tenant") == tenant]
    shown["models"] = [
        {**row, "cells": [{**cell, "shared_by": owners[cell["block"]]} for cell in row.get("cells", ())]}
        for row in rows
    ]
    names = {row["model"] for row in rows}
    shown["segments"] = [
        {**segment, "models": kept}
        for segment in status.get("segments", ())
        if (kept := [model for model in segment["models"] if model in names])
    ]
    return shown
