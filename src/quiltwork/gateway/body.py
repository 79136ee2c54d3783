"""Reading a request's body: bounded, UTF-8, JSON or multipart, and nothing else."""

from __future__ import annotations

import asyncio
import json
import math
import re
from dataclasses import dataclass
from email.message import Message

from fastapi import Request
from starlette.requests import ClientDisconnect

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json
from quiltwork.gateway.errors import ClientGoneError, MediaTypeError, TooLargeError

MAX_DEPTH = 64
"""Objects and lists inside one another."""
MAX_PIECES = 300_000
"""Objects, their fields and lists in all."""
MAX_PARTS = 1000
"""Parts of a multipart body."""
MAX_PART_HEAD = 16 << 10
"""Bytes of the header of such a part."""
LARGE_BYTES = 64 << 10
"""From here on a body is parsed in a thread."""


@dataclass(frozen=True)
class FormPart:
    """One part of a multipart body."""

    name: str
    data: bytes
    is_file: bool


async def read_bytes(request: Request, limit: int) -> bytes:
    """The body. Raises TooLargeError as soon as it is longer than ``limit`` bytes, ClientGoneError if it ends short."""
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        raise TooLargeError(f"{declared} bytes; this server takes {limit}", where="body")
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise TooLargeError(f"more than the {limit} bytes that this server takes", where="body")
            chunks.append(chunk)
    except ClientDisconnect as error:
        raise ClientGoneError("the client closed the connection before its body had come") from error
    return b"".join(chunks)


async def read_object(request: Request, limit: int) -> dict[str, Json]:
    """The body as a JSON object. Raises MediaTypeError, TooLargeError, or BadInputError where it is not one."""
    # Also keeps pages of other origins out: they may not send this type unasked.
    if media_type(request) != "application/json":
        raise MediaTypeError("must be application/json", where="Content-Type")
    data = await read_bytes(request, limit)
    return parse_object(data) if len(data) < LARGE_BYTES else await asyncio.to_thread(parse_object, data)


def media_type(request: Request) -> str:
    """The body's type without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def parse_object(data: bytes) -> dict[str, Json]:
    """A JSON object. Raises BadInputError for what is not UTF-8, not JSON, no object, or nested too deeply."""
    value = parse_json(data)
    if not isinstance(value, dict):
        raise BadInputError("must be a JSON object", where="body")
    return value


def parse_json(data: bytes, *, where: str = "body") -> Json:
    """A JSON value without NaN and without half characters, not too deep and not of too many pieces."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInputError(f"is not UTF-8 at byte {error.start}", where=where) from error
    _check_shape(text, where)

    def number(digits: str) -> float:
        value = float(digits)
        if math.isinf(value):
            raise BadInputError("holds a number that is too large", where=where)
        return value

    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=number)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise BadInputError(f"is not JSON: {error.msg} at {place}", where=where) from error
    except ValueError as error:
        raise BadInputError(f"is not JSON: {str(error)[:120]}", where=where) from error
    if _HALF_ESCAPE.search(text):
        _refuse_halves(value, where)
    return value


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is not a JSON number")


def _check_shape(text: str, where: str) -> None:
    """Raise BadInputError where the brackets of ``text`` say that its value is too deep or of too many pieces.

    Before it is parsed: millions of empty lists in a body hold up everybody while they are made.
    """
    if text.count("[") + text.count("{") <= MAX_DEPTH and text.count(":") <= MAX_PIECES:
        return
    bare = _STRING.sub("", text)
    depth = 0
    for found in _BRACKET.finditer(bare):
        depth += 1 if found[0] in "[{" else -1
        if depth > MAX_DEPTH:
            raise BadInputError(f"is nested more than {MAX_DEPTH} deep", where=where)
    pieces = bare.count("[") + bare.count("{") + bare.count(":")
    if pieces > MAX_PIECES:
        raise BadInputError(f"holds {pieces} lists, objects and fields; {MAX_PIECES} are taken", where=where)


def _refuse_halves(value: Json, where: str) -> None:
    """Raise BadInputError where a text in ``value`` holds half of a surrogate pair."""
    pending: list[Json] = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending.extend(item.values())
            pending.extend(item)
        elif isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, str) and _HALF.search(item):
            raise BadInputError("holds half of a surrogate pair, which is not text", where=where)


# A text that does not end is taken to the end, so that no second try starts within it.
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")
_HALF = re.compile("[\ud800-\udfff]")
_HALF_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_form(data: bytes, content_type: str) -> list[FormPart]:
    """The parts of a ``multipart/form-data`` body (RFC 7578). Raises BadInputError where it is malformed."""
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_param("boundary")
    if not isinstance(boundary, str) or not boundary:
        raise BadInputError("has no boundary", where="Content-Type")
    delimiter = b"--" + boundary.encode("latin-1", "replace")
    _head, *pieces = (b"\r\n" + data).split(b"\r\n" + delimiter, MAX_PARTS + 2)
    if len(pieces) > MAX_PARTS + 1:
        raise BadInputError(f"the multipart body has more than {MAX_PARTS} parts", where="body")
    if not pieces or not pieces[-1].startswith(b"--"):
        raise BadInputError("the multipart body does not end with its boundary", where="body")
    return [_form_part(piece) for piece in pieces[:-1]]


def _form_part(piece: bytes) -> FormPart:
    head, separator, content = piece.partition(b"\r\n\r\n")
    if len(head) > MAX_PART_HEAD:
        raise BadInputError(f"the header of a part is longer than {MAX_PART_HEAD} bytes", where="body")
    fields = Message()
    for line in head.decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            fields[name.strip()] = value.strip()
    given = fields.get_param("name", header="Content-Disposition")
    if not separator or not isinstance(given, str):
        raise BadInputError("a part of the multipart body has no name", where="body")
    is_file = fields.get_param("filename", header="Content-Disposition") is not None
    return FormPart(given, content, is_file)
