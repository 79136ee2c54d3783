"""OpenAI's route for vectors of texts."""

from __future__ import annotations

import asyncio
import base64
import functools
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from quiltwork.core.errors import BadInputError, QuiltworkError, UnsupportedError
from quiltwork.core.servable import Input, Json, Part, Stream
from quiltwork.gateway.body import read_object
from quiltwork.gateway.door import caller_of, house_of, visitor_of
from quiltwork.gateway.measure import Latency
from quiltwork.gateway.replies import in_thread, until_gone
from quiltwork.gateway.schemas import check, split

router = APIRouter()

TASK = "embeddings"
MAX_INPUTS = 2048
"""OpenAI's limit."""
_TEXT = {"type": "string", "minLength": 1}
EMBEDDINGS: Mapping[str, Json] = {
    "type": "object",
    "properties": {
        "model": {"type": "string", "minLength": 1},
        "input": {
            "anyOf": [_TEXT, {"type": "array", "minItems": 1, "maxItems": MAX_INPUTS, "items": _TEXT}],
            "description": "A text, or a list of texts.",
        },
        "encoding_format": {"enum": ["float", "base64", None], "default": "float",
                            "description": "base64: float32 numbers, little end first."},
        "dimensions": {"type": ["integer", "null"], "minimum": 1, "maximum": 2**20,
                       "description": "Shorter vectors, for models that were made for them."},
        "user": {"type": ["string", "null"], "maxLength": 512, "description": "Written to the access log."},
    },
    "required": ["model", "input"],
    "additionalProperties": False,
}  # fmt: skip
_PLACES: Mapping[str, Json] = {"type": "array", "items": {"type": "integer"}}
EMBEDDED: Mapping[str, Json] = {
    "type": "object",
    "required": ["object", "data", "model", "usage"],
    "properties": {
        "object": {"const": "list"},
        "data": {"type": "array", "items": {"type": "object", "required": ["object", "index", "embedding"]}},
        "truncated": {**_PLACES, "description": "Inputs whose end was left out: they are too long for the model."},
        "unknown": {**_PLACES, "description": "Inputs without a word that the model knows; their vectors are zeros."},
    },
}


@dataclass(frozen=True)
class _Asked:
    model: str
    texts: tuple[str, ...]
    packed: bool
    """Whether vectors go out in base64."""
    options: Mapping[str, Json]
    user: str | None


@router.post("/v1/embeddings", tags=["OpenAI"], summary="Vectors of texts")
async def embeddings(request: Request) -> Response:
    """OpenAI's embeddings. ``truncated`` and ``unknown`` number the inputs that are not wholly in their vectors."""
    house, visitor = house_of(request), visitor_of(request)
    with ExitStack() as inside:
        inside.enter_context(house.turnstile.enter(visitor.tenant))
        body = await read_object(request, house.limits.body_bytes)
        asked = await asyncio.to_thread(read_embeddings, body)
        found = house.directory.find(asked.model, visitor.tenant, TASK)
        request.state.access = {"tenant": visitor.tenant, "model": asked.model, "user": asked.user}
        input = Input(TASK, {"input": list(asked.texts)})
        start = functools.partial(
            found.servable.submit, found.ref, input, asked.options, caller=caller_of(request, visitor)
        )
        started = house.clock()
        part = await until_gone(request, _last(start))
        reply = await asyncio.to_thread(_reply, asked, part)
        house.traffic.served(Latency(asked.model, visitor.tenant, None, house.clock() - started, 0))
        return reply


def read_embeddings(body: Mapping[str, Json]) -> _Asked:
    """A body of /v1/embeddings. Raises BadInputError or UnsupportedError naming the field."""
    own, _ = split(body, set(EMBEDDINGS["properties"]), {})
    given = own.get("input")
    if isinstance(given, list) and any(isinstance(item, int | list) for item in given[:MAX_INPUTS]):
        raise UnsupportedError("token ids are not taken", where="input", hint="send texts")
    if isinstance(given, list) and not 1 <= len(given) <= MAX_INPUTS:
        raise BadInputError(f"{len(given)} texts are not 1 to {MAX_INPUTS}", where="input")
    texts: list[Json] = given if isinstance(given, list) else [given]
    for at, text in enumerate(texts):
        if text == "":
            raise BadInputError("is empty", where=f"input[{at}]" if isinstance(given, list) else "input")
    check(own, EMBEDDINGS)
    options = {"dimensions": own["dimensions"]} if "dimensions" in own else {}
    return _Asked(own["model"], tuple(texts), own.get("encoding_format") == "base64", options, own.get("user"))


async def _last(start: functools.partial[Stream]) -> Part:
    stream = await in_thread(start)
    try:
        parts = await stream
    finally:
        stream.cancel()
    if not parts:
        raise QuiltworkError("gave no answer")
    return parts[-1]


def _reply(asked: _Asked, part: Part) -> JSONResponse:
    vectors = np.frombuffer(part.blobs["vectors"], "<f4").reshape(len(asked.texts), part.fields["dimensions"])
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(row.tobytes()).decode() if asked.packed else row.tolist(),
        }
        for index, row in enumerate(vectors)
    ]
    return JSONResponse(
        {
            "object": "list",
            "data": data,
            "model": asked.model,
            "usage": part.fields["usage"],
            "truncated": part.fields["truncated"],
            "unknown": part.fields["unknown"],
        }
    )
