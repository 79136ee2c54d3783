"""Every failure as OpenAI's error object: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import logging
import math

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from quiltwork.core.errors import BadInputError, CapacityError, NotFoundError, QuiltworkError
from quiltwork.core.servable import Json

log = logging.getLogger("quiltwork.gateway")


class UnauthorizedError(QuiltworkError):
    """No key, or none that is known."""

    http_status = 401
    code = "invalid_api_key"


class ForbiddenError(QuiltworkError):
    """The key is good, but not for this."""

    http_status = 403
    code = "forbidden"


class TooLargeError(BadInputError):
    """The body is longer than the server takes."""

    http_status = 413
    code = "too_large"


class MediaTypeError(BadInputError):
    """The body is of a kind that the route does not take."""

    http_status = 415
    code = "unsupported_media_type"


class DrainingError(QuiltworkError):
    """The server is shutting down."""

    http_status = 503
    code = "shutting_down"


class ClientGoneError(QuiltworkError):
    """The client has closed its connection; nobody reads the answer."""

    http_status = 499
    code = "client_closed_request"


_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 409: "conflict_error",
          429: "rate_limit_error"}  # fmt: skip


def error_object(error: QuiltworkError) -> dict[str, Json]:
    """The body that answers ``error``. ``param`` is the field it was found in."""
    status = error.http_status
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    code = "model_not_found" if isinstance(error, NotFoundError) and error.where == "model" else error.code
    message = str(error).encode("utf-8", "replace").decode()
    param = error.where.encode("utf-8", "replace").decode() if error.where is not None else None
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(error: QuiltworkError) -> JSONResponse:
    """``error`` as a reply, with Retry-After where trying again may help."""
    headers: dict[str, str] = {}
    if isinstance(error, CapacityError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, UnauthorizedError):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_object(error), status_code=error.http_status, headers=headers)


def as_quiltwork(error: BaseException) -> QuiltworkError:
    """``error`` as one of ours; an unforeseen one is logged and its text kept from the client."""
    if isinstance(error, QuiltworkError):
        return error
    log.error("unforeseen error", exc_info=error)
    return QuiltworkError("the server failed; its log says why")


def install_error_handlers(app: FastAPI) -> None:
    """Answer every error that a route raises with the error object."""

    async def ours(request: Request, error: Exception) -> Response:
        return error_response(as_quiltwork(error))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.url.path
        if error.status_code == 404:
            response = error_response(NotFoundError(f"there is no {path[:200]}", hint="see /openapi.json"))
        else:
            plain = BadInputError(f"{request.method} {path[:200]}: {error.detail}")
            response = JSONResponse(error_object(plain), status_code=error.status_code)
        response.headers.update(error.headers or {})
        return response

    app.add_exception_handler(QuiltworkError, ours)
    app.add_exception_handler(HTTPException, http)


__all__ = [
    "ClientGoneError",
    "DrainingError",
    "ForbiddenError",
    "MediaTypeError",
    "TooLargeError",
    "UnauthorizedError",
    "as_quiltwork",
    "error_object",
    "error_response",
    "install_error_handlers",
]
