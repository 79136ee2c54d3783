"""Loading and unloading while the server runs, under the names that vLLM and llama.cpp gave these routes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from quiltwork.core.errors import BadInputError, NotFoundError, UnsupportedError
from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Json, Offers, taker
from quiltwork.gateway.body import read_object
from quiltwork.gateway.directory import Directory
from quiltwork.gateway.door import admin_of, house_of
from quiltwork.gateway.schemas import check, split

router = APIRouter(tags=["Administration"])

_NAME = {"type": "string", "minLength": 1, "maxLength": 256}
LOAD_ADAPTER: Mapping[str, Json] = {
    "type": "object",
    "properties": {
        "lora_name": _NAME,
        "lora_path": {"type": "string", "minLength": 1, "maxLength": 4096,
                      "description": "A folder on the server; left out for a model that the zoo has already."},
        "base_model_name": {"type": ["string", "null"]},
        "load_inplace": {"type": ["boolean", "null"], "description": "Take the place of another of that name."},
    },
    "required": ["lora_name"],
    "additionalProperties": False,
}  # fmt: skip
UNLOAD_ADAPTER: Mapping[str, Json] = {
    "type": "object",
    "properties": {"lora_name": _NAME},
    "required": ["lora_name"],
    "additionalProperties": False,
}
MODEL: Mapping[str, Json] = {
    "type": "object",
    "properties": {"model": _NAME},
    "required": ["model"],
    "additionalProperties": False,
}
LOAD_MODEL: Mapping[str, Json] = {
    **MODEL,
    "properties": {
        "model": _NAME,
        "pin": {"type": ["boolean", "null"],
                "description": "Keep it in memory whatever else is asked for; false lets it go again for others."},
    },
}  # fmt: skip


async def _fields(request: Request, schema: Mapping[str, Json]) -> dict[str, Json]:
    body = await read_object(request, house_of(request).limits.body_bytes)
    fields, _ = split(body, set(schema["properties"]), {})
    check(fields, schema)
    return fields


@router.post("/v1/load_lora_adapter", summary="Add an adapter to the zoo and serve it")
async def load_adapter(request: Request) -> Response:
    """Take a PEFT folder in, or bring up what the zoo has under that name; what cannot be served is not kept."""
    visitor, house = admin_of(request), house_of(request)
    fields = await _fields(request, LOAD_ADAPTER)
    ref = house.directory.own_ref(fields["lora_name"], visitor, where="lora_name")
    path, zoo = fields.get("lora_path"), house.zoo
    if path is not None:
        if zoo is None:
            raise UnsupportedError("this server has no zoo to add to", where="lora_path")
        if "\0" in path:
            raise BadInputError("is not a path", where="lora_path")
        base = fields.get("base_model_name")
        replace = bool(fields.get("load_inplace", False))

        def add() -> None:
            added = zoo.add(path, name=ref.name, tenant=ref.tenant, base=base, replace=replace)
            try:
                _load(house.directory, ref)
            except BaseException:
                # What took another's place stays: that one is gone.
                if not added.already and not replace:
                    zoo.remove(ref)
                raise

        await asyncio.to_thread(add)
    else:
        await asyncio.to_thread(_load, house.directory, ref)
    return PlainTextResponse(f"Success: LoRA adapter '{ref.name}' added successfully.")


@router.post("/v1/unload_lora_adapter", summary="Serve an adapter no more")
async def unload_adapter(request: Request) -> Response:
    """Running requests finish; the zoo keeps it."""
    visitor, house = admin_of(request), house_of(request)
    fields = await _fields(request, UNLOAD_ADAPTER)
    ref = house.directory.own_ref(fields["lora_name"], visitor, where="lora_name")
    await asyncio.to_thread(_unload, house.directory, ref, "lora_name")
    return PlainTextResponse(f"Success: LoRA adapter '{ref.name}' removed successfully.")


@router.post("/models/load", summary="Serve a model of the zoo")
async def load_model(request: Request) -> Response:
    """Bring up a model; one that is served already is brought to its present version, one on disk into memory."""
    visitor, house = admin_of(request), house_of(request)
    fields = await _fields(request, LOAD_MODEL)
    ref = house.directory.own_ref(fields["model"], visitor, where="model")
    await asyncio.to_thread(_load, house.directory, ref, fields.get("pin"))
    return JSONResponse({"success": True})


@router.post("/models/unload", summary="Serve a model no more")
async def unload_model(request: Request) -> Response:
    """Running requests finish; the zoo keeps it."""
    visitor, house = admin_of(request), house_of(request)
    fields = await _fields(request, MODEL)
    ref = house.directory.own_ref(fields["model"], visitor, where="model")
    await asyncio.to_thread(_unload, house.directory, ref, "model")
    return JSONResponse({"success": True})


def _load(directory: Directory, ref: ModelRef, pin: bool | None = None) -> None:
    """Load with the Servable whose kind of model it is, and pin it or pin it no more."""
    servable = taker(directory.servables, ref)
    if pin is None:
        servable.load(ref)
    elif isinstance(servable, Offers):
        servable.pin(ref, pin)
    else:
        raise UnsupportedError(f"models of kind {servable.kind} cannot be pinned", where="pin")


def _unload(directory: Directory, ref: ModelRef, where: str) -> None:
    for servable in directory.servables.values():
        if any(hosted.ref == ref for hosted in servable.models()):
            servable.unload(ref)
            return
    raise NotFoundError(f"{ref} is not loaded", where=where)
