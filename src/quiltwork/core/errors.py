"""One small hierarchy of errors: each says what was wrong, where, and what to do.

The command line prints ``str(error)`` as its one line and exits with ``exit_code``; the gateway answers with
``http_status`` and the OpenAI error object. A traceback for a user's mistake is a bug.
"""

from __future__ import annotations


class QuiltworkError(Exception):
    """Something failed.

    Parameters
    ----------
    what : what was wrong, one clause.
    where : the file, field or name it was found in (``config.json: rope_scaling``), if there is one.
    hint : what to do about it, if there is something.
    """

    exit_code = 1
    http_status = 500
    code = "internal_error"

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text} ({self.hint})" if self.hint else text


class BadInputError(QuiltworkError):
    """The input is not acceptable: a malformed file, a field out of range, a wrong shape."""

    exit_code = 2
    http_status = 400
    code = "invalid_request"


class UnsupportedError(BadInputError):
    """The input is well formed, but asks for something that is not implemented; ``where`` names it."""

    code = "unsupported"


class NotFoundError(QuiltworkError):
    """No such model, block, file or benchmark."""

    exit_code = 2
    http_status = 404
    code = "not_found"


class ConflictError(QuiltworkError):
    """The name is taken, or the thing is in use."""

    http_status = 409
    code = "conflict"


class CapacityError(QuiltworkError):
    """Not now: a queue, the memory or the disk is full. Nothing was changed; trying later may work."""

    http_status = 429
    code = "over_capacity"

    def __init__(
        self, what: str, *, where: str | None = None, hint: str | None = None, retry_after: float = 1.0
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.retry_after = retry_after


class CorruptionError(QuiltworkError):
    """Stored bytes are not what their hash says. Never served, never exported."""

    code = "corrupt"
