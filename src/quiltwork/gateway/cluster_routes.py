"""The cluster over HTTP: jobs, servers, loans, and the page that shows them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.gateway.body import media_type, read_bytes, read_object
from quiltwork.gateway.door import admin_of, house_of, visitor_of
from quiltwork.gateway.errors import MediaTypeError
from quiltwork.gateway.page import page_response

if TYPE_CHECKING:
    from quiltwork.cluster.live.desk import Desk

Answer = TypeVar("Answer")
SPEC_TYPES = ("application/yaml", "application/json")
LONGEST_SPEC = 1 << 20
LONGEST_TAIL = 16 << 20


def cluster_router(desk: Desk) -> APIRouter:
    """Routes of one cluster. Only administrators change it, and only they see what jobs wrote."""
    router = APIRouter(tags=["Cluster"])

    @router.get("/cluster", include_in_schema=False)
    async def page(request: Request) -> HTMLResponse:
        """The page's frame; its script asks for what it shows."""
        return page_response("cluster.html")

    @router.get("/v1/cluster", summary="Servers, jobs by state, loans, GPU-hours by team")
    async def status(request: Request) -> JSONResponse:
        visitor_of(request)
        return JSONResponse(await _off(desk.status))

    @router.get("/v1/cluster/jobs", summary="All jobs, in the order of their submission")
    async def jobs(request: Request, state: str | None = None, team: str | None = None) -> JSONResponse:
        visitor_of(request)
        found = await _off(desk.jobs)
        kept = [job for job in found if state in (None, job["state"]) and team in (None, job["team"])]
        return JSONResponse({"jobs": kept})

    @router.post("/v1/cluster/jobs", summary="Submit a job: its spec, as YAML or JSON", status_code=201)
    async def submit(request: Request) -> JSONResponse:
        """The header ``Idempotency-Key`` makes the same request, sent twice, one job."""
        admin_of(request)
        # Pages of other origins may not send these types unasked.
        if media_type(request) not in SPEC_TYPES:
            raise MediaTypeError(f"must be one of {', '.join(SPEC_TYPES)}", where="Content-Type")
        data = await read_bytes(request, min(LONGEST_SPEC, house_of(request).limits.body_bytes))
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadInputError(f"is not UTF-8 at byte {error.start}", where="body") from error
        key = request.headers.get("idempotency-key")
        job_id = await _off(lambda: desk.submit(text, request=key))
        return JSONResponse(await _off(lambda: desk.job(job_id)), status_code=201)

    @router.get("/v1/cluster/jobs/{job}", summary="One job and its workers")
    async def job(request: Request, job: str) -> JSONResponse:
        visitor_of(request)
        return JSONResponse(await _off(lambda: desk.job(job)))

    @router.get("/v1/cluster/jobs/{job}/explain", summary="Why it waits, and what was decided on it")
    async def explain(request: Request, job: str) -> JSONResponse:
        visitor_of(request)
        return JSONResponse(await _off(lambda: desk.explain(job)))

    @router.get("/v1/cluster/jobs/{job}/logs", summary="What its workers wrote")
    async def logs(request: Request, job: str, worker: str | None = None, tail: int = 1 << 16) -> Response:
        """The end of each worker's output, ``tail`` bytes at most."""
        admin_of(request)
        if not 0 < tail <= LONGEST_TAIL:
            raise BadInputError(f"{tail} is not a number of bytes up to {LONGEST_TAIL}", where="tail")
        files = await _off(lambda: desk.logs(job))
        if worker is not None and worker not in files:
            raise NotFoundError("it has no such worker", where=f"job {job}")
        chosen = files if worker is None else {worker: files[worker]}
        return PlainTextResponse(await asyncio.to_thread(_ends, chosen, tail))

    @router.post("/v1/cluster/jobs/{job}/cancel", summary="Cancel a job that waits or runs")
    async def cancel(request: Request, job: str) -> JSONResponse:
        admin_of(request)
        await _fields(request, {})
        await _off(lambda: desk.cancel(job))
        return JSONResponse(await _off(lambda: desk.job(job)))

    for verb, change in (("loan", desk.lend), ("reclaim", desk.reclaim)):
        router.post(f"/v1/cluster/{verb}", summary=f"{verb.capitalize()} servers of inference now")(
            _change(desk, change)
        )

    @router.post("/v1/cluster/servers/{server}/drain", summary="Place nothing on a server from now on")
    async def drain(request: Request, server: str) -> JSONResponse:
        """``empty``: whoever is on it goes back into the queue."""
        admin_of(request)
        fields = await _fields(request, {"empty": bool})
        await _off(lambda: desk.drain(server, empty=bool(fields.get("empty", False))))
        return JSONResponse(await _off(desk.status))

    @router.post("/v1/cluster/servers/{server}/undrain", summary="Let a server take work again")
    async def undrain(request: Request, server: str) -> JSONResponse:
        admin_of(request)
        await _fields(request, {})
        await _off(lambda: desk.undrain(server))
        return JSONResponse(await _off(desk.status))

    return router


def _change(desk: Desk, change: Callable[[int], None]) -> Callable[..., Any]:
    async def route(request: Request) -> JSONResponse:
        admin_of(request)
        fields = await _fields(request, {"servers": int})
        if "servers" not in fields:
            raise BadInputError("is missing", where="servers")
        await _off(lambda: change(fields["servers"]))
        return JSONResponse(await _off(desk.status))

    return route


async def _off(task: Callable[[], Answer]) -> Answer:
    """The controller answers when it has time: not in the event loop's."""
    return await asyncio.to_thread(task)


async def _fields(request: Request, known: dict[str, type]) -> dict[str, Any]:
    """The body's fields. Raises BadInputError for one that is not known, or of another kind."""
    fields = await read_object(request, house_of(request).limits.body_bytes)
    for name, value in fields.items():
        if name not in known:
            raise BadInputError("is not known", where=name[:80], hint=f"known: {', '.join(known) or 'none'}")
        if type(value) is not known[name]:
            raise BadInputError(f"is not of type {known[name].__name__}", where=name)
    return fields


def _ends(files: dict[str, Path], tail: int) -> str:
    parts = []
    for name, path in files.items():
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - tail))
            text = file.read().decode("utf-8", "replace")
        head = f"==> {name} <==\n" if len(files) > 1 else ""
        parts.append(head + text)
    return "\n".join(parts)
