"""How commands talk to a server: OpenAI's client, its errors said in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import openai

from quiltwork.core.errors import BadInputError, QuiltworkError


def connect(url: str, key: str | None) -> openai.OpenAI:
    """A client of the server at ``url``, with or without ``/v1``. Raises BadInputError where it is no URL."""
    if not url.startswith(("http://", "https://")):
        raise BadInputError(f"{url!r} is not a URL", where="--url", hint="http://host:port")
    base = url.rstrip("/").removesuffix("/v1") + "/v1"
    return openai.OpenAI(base_url=base, api_key=key or "none", max_retries=0)


def pick_model(client: openai.OpenAI) -> str:
    """The server's one model. Raises BadInputError where there are several or none."""
    names = [model.id for model in client.models.list()]
    if len(names) != 1:
        shown = ", ".join(names[:20]) or "none"
        raise BadInputError("is needed: the server does not have exactly one", where="--model", hint=f"it has {shown}")
    return names[0]


@contextmanager
def naming_errors(url: str) -> Iterator[None]:
    """What goes wrong inside, as one of our errors."""
    try:
        yield
    except openai.APIConnectionError as error:
        raise QuiltworkError("no server answers", where=url, hint="quiltwork up") from error
    except openai.APIStatusError as error:
        body = error.body if isinstance(error.body, dict) else {}
        text = str(body.get("message") or error.message)
        kind = BadInputError if error.status_code in (400, 401, 403, 404) else QuiltworkError
        raise kind(text, where=url) from error
    except openai.APIError as error:
        raise QuiltworkError(error.message, where=url) from error
