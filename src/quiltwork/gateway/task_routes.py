"""One route for every task that any Servable declares: no task has code of its own here."""

from __future__ import annotations

import asyncio
import base64
import binascii
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from quiltwork.core.errors import BadInputError, QuiltworkError
from quiltwork.core.servable import Input, Json, Part, Stream, TaskSchema
from quiltwork.gateway.body import media_type, parse_form, parse_json, read_bytes, read_object
from quiltwork.gateway.chunks import event
from quiltwork.gateway.directory import Directory
from quiltwork.gateway.door import caller_of, house_of, visitor_of
from quiltwork.gateway.measure import Latency
from quiltwork.gateway.replies import EventStream, in_thread, merged, until_gone
from quiltwork.gateway.schemas import check, split

OPENAI_TASKS = frozenset({"completion", "chat", "embeddings"})
"""Tasks that have routes of OpenAI's shape instead."""
PLAIN_PATHS = {"tokenize": "/tokenize", "detokenize": "/detokenize"}
"""Tasks whose paths other servers have settled; their model may be left out where there is only one."""
_OWN = frozenset({"model", "stream"})


def task_router(directory: Directory) -> APIRouter:
    """A route for every task, ``/v1/<task>`` unless other servers have settled on another path."""
    router = APIRouter()
    tasks = sorted({task for servable in directory.servables.values() for task in servable.tasks()} - OPENAI_TASKS)
    for task in tasks:
        handler = _handler(task)
        for path in dict.fromkeys([PLAIN_PATHS.get(task, f"/v1/{task}"), f"/v1/{task}"]):
            router.add_api_route(
                path, handler, methods=["POST"], tags=["Tasks"], summary=task, name=f"{task} {path}",
                response_class=JSONResponse,
            )  # fmt: skip
    return router


def _handler(task: str) -> Callable[[Request], Awaitable[Response]]:
    """A route's function; its signature must not show ``task``, or that becomes a query parameter."""

    async def handler(request: Request) -> Response:
        return await _answer(request, task)

    return handler


def binary_fields(schema: TaskSchema) -> dict[str, Mapping[str, Json]]:
    """The fields of a task's input that hold bytes, or lists of bytes."""
    return {name: field for name, field in schema.input.get("properties", {}).items() if _is_binary(field)}


def _is_binary(field: Mapping[str, Json]) -> bool:
    return field.get("contentEncoding") == "base64" or field.get("items", {}).get("contentEncoding") == "base64"


def body_schema(task: str, schema: TaskSchema) -> dict[str, Json]:
    """The JSON body of a task's route: its input fields and its options side by side."""
    given = dict(schema.input)
    properties = {
        **schema.options.get("properties", {}),
        **given.pop("properties", {}),
        "model": {"type": "string", "minLength": 1},
    }
    if schema.streams:
        properties["stream"] = {"type": ["boolean", "null"], "default": False}
    required = [*([] if task in PLAIN_PATHS else ["model"]), *given.pop("required", [])]
    return {**given, "type": "object", "properties": properties, "required": required, "additionalProperties": False}


async def _answer(request: Request, task: str) -> Response:
    house, visitor = house_of(request), visitor_of(request)
    with ExitStack() as inside:
        inside.enter_context(house.turnstile.enter(visitor.tenant))
        body, blobs = await _read(request, house.directory.schemas(task), house.limits.body_bytes)
        model = body.get("model")
        if model is None and task in PLAIN_PATHS:
            model = house.directory.only(visitor.tenant, task)
        found = house.directory.find(model, visitor.tenant, task)
        schema = found.servable.tasks()[task]
        input, options, stream = await asyncio.to_thread(_understand, task, schema, body, blobs)
        request.state.access = {"tenant": visitor.tenant, "model": model}
        caller = caller_of(request, visitor)
        start = functools.partial(found.servable.submit, found.ref, input, options, caller=caller)
        started = house.clock()
        if stream:
            parts = await until_gone(request, in_thread(start))
            return EventStream(_events(parts), inside.pop_all())
        answered = await until_gone(request, _all(start))
        took = house.clock() - started
        if task not in PLAIN_PATHS:
            house.traffic.served(Latency(str(model), visitor.tenant, None, took, 0))
        if not schema.streams:
            return JSONResponse(answered[-1])
        return JSONResponse({"object": task, "parts": answered})


async def _read(
    request: Request, schemas: list[TaskSchema], limit: int
) -> tuple[dict[str, Json], dict[str, list[bytes]]]:
    """The fields of a JSON or multipart body, and the files of a multipart one."""
    binary = {name for schema in schemas for name in binary_fields(schema)}
    if media_type(request) != "multipart/form-data" or not binary:
        return await read_object(request, limit), {}
    form = parse_form(await read_bytes(request, limit), request.headers["content-type"])
    body: dict[str, Json] = {}
    blobs: dict[str, list[bytes]] = {}
    for part in form:
        if part.name in binary:
            blobs.setdefault(part.name, []).append(part.data)
        elif part.name in body:
            raise BadInputError("is given twice", where=part.name[:100])
        else:
            body[part.name] = _form_value(part.name, part.data, schemas)
    return body, blobs


def _form_value(name: str, data: bytes, schemas: list[TaskSchema]) -> Json:
    """A text where the schema wants one, else JSON."""
    declared = [{**s.options.get("properties", {}), **s.input.get("properties", {})}.get(name, {}) for s in schemas]
    if name == "model" or any(field.get("type") == "string" for field in declared):
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise BadInputError(f"is not UTF-8 at byte {error.start}", where=name) from error
    return parse_json(data, where=name[:100])


def _understand(
    task: str, schema: TaskSchema, body: Mapping[str, Json], files: Mapping[str, list[bytes]]
) -> tuple[Input, dict[str, Json], bool]:
    """A body as what the Servable takes. Raises BadInputError or UnsupportedError naming the field."""
    fields = set(schema.input.get("properties", {}))
    own, options = split(body, fields | (_OWN if schema.streams else {"model"}), schema.options)
    binary = binary_fields(schema)
    named: dict[str, Json] = {name: value for name, value in own.items() if name not in _OWN}
    # Files count as present; their bytes are not text, so a placeholder stands for each while the rest is checked.
    listed = {n: "contentEncoding" not in binary[n] for n in files}
    checked = {**named, **{n: [""] * len(given) if listed[n] else "" for n, given in files.items()}}
    check(checked, schema.input)
    check(options, schema.options)
    stream = own.get("stream", False)
    if not isinstance(stream, bool):
        raise BadInputError("must be true or false", where="stream")
    blobs: dict[str, bytes] = {}
    for name in binary:
        if name in files:
            if not listed[name] and len(files[name]) > 1:
                raise BadInputError("is given twice", where=name)
            given = dict(_numbered(name, files[name], listed=listed[name]))
        elif name in named:
            value = named.pop(name)
            texts = value if isinstance(value, list) else [value]
            given = {at: _decoded(at, text) for at, text in _numbered(name, texts, listed=isinstance(value, list))}
        else:
            continue
        blobs.update(given)
    return Input(task, named, blobs), options, stream


def _numbered(name: str, values: list[Json], *, listed: bool) -> list[tuple[str, Json]]:
    """The names of blobs: the field's own, or ``field[0]``, ``field[1]`` for a list."""
    return [(f"{name}[{at}]" if listed else name, value) for at, value in enumerate(values)]


def _decoded(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInputError("is not base64", where=name) from error


async def _all(start: functools.partial[Stream]) -> list[dict[str, Json]]:
    batches = merged([await in_thread(start)], patient=True)
    try:
        answered = [_shown(part) async for parts in batches for _, part in parts]
    finally:
        await batches.aclose()  # type: ignore[attr-defined]
    if not answered:
        raise QuiltworkError("gave no answer")
    return answered


async def _events(stream: Stream) -> AsyncIterator[bytes]:
    batches = merged([stream])
    try:
        async for parts in batches:
            yield b"".join([event(_shown(part)) for _, part in parts])
    finally:
        await batches.aclose()  # type: ignore[attr-defined]


def _shown(part: Part) -> dict[str, Json]:
    """A part as JSON, its bytes in base64."""
    return {**part.fields, **{name: base64.b64encode(data).decode() for name, data in part.blobs.items()}}
