"""How commands talk to a server: OpenAI's client, its errors said in one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from json import JSONDecodeError
from urllib.parse import urlsplit

import openai

from quiltwork.core.errors import BadInputError, QuiltworkError

_LONGEST_MESSAGE = 300


def connect(url: str, key: str | None) -> openai.OpenAI:
    """A client of the server at ``url``, with or without ``/v1``. Raises BadInputError where it is no URL."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and url.isprintable()
    except ValueError:  # a port that is no number, half an IPv6 address
        good = False
    if not good:
        raise BadInputError(f"{url!r} is not a URL", where="--url", hint="http://host:port")
    if key is not None and not (key.isascii() and key.isprintable()):
        raise BadInputError("has characters that no key has", where="--key")
    base = url.rstrip("/").removesuffix("/v1") + "/v1"
    return openai.OpenAI(base_url=base, api_key=key or "none", max_retries=0)


def model_names(client: openai.OpenAI) -> list[str]:
    """What the server has. Raises QuiltworkError where it does not answer as OpenAI's servers do."""
    try:
        return [model.id for model in client.models.list()]
    except (AttributeError, TypeError) as error:  # the client takes what comes for what it should be
        raise QuiltworkError("is not a server of OpenAI's shape", where=str(client.base_url)) from error


def check_models(client: openai.OpenAI, wanted: Sequence[str]) -> None:
    """Raise BadInputError for the first of ``wanted`` that the server does not have."""
    has = model_names(client)
    for name in wanted:
        if name not in has:
            raise BadInputError(f"the server has no {name!r}", where="model", hint=f"it has {_some(has)}")


def pick_model(client: openai.OpenAI) -> str:
    """The server's one model. Raises BadInputError where there are several or none."""
    has = model_names(client)
    if len(has) != 1:
        hint = f"it has {_some(has)}"
        raise BadInputError("is needed: the server does not have exactly one", where="--model", hint=hint)
    return has[0]


def check_text(text: str, where: str) -> str:
    """``text``, which may have come as bytes of no UTF-8. Raises BadInputError."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadInputError("is not UTF-8", where=where) from error
    return text


def experts_of(text: str) -> int | str | dict[str, float | int]:
    """The request field ``experts`` of ``--experts``: a number of them, ``adaptive``, ``T`` or ``T:MOST``.

    A threshold is written with a point, so that 1 is one expert and 1.0 a threshold. Raises BadInputError.
    """
    threshold, colon, most = text.partition(":")
    try:
        if text == "adaptive":
            return text
        if not colon and "." not in text:
            return int(text)
        told: dict[str, float | int] = {"threshold": float(threshold)}
        return {**told, "most": int(most)} if colon else told
    except ValueError as error:
        hint = "2, adaptive, 0.1, or 0.1:2 for a threshold and the most"
        raise BadInputError(f"{text[:40]!r} is not a number of experts", where="--experts", hint=hint) from error


EXPERTS_HELP = "Of a model with experts: how many each token takes, or adaptive, or a threshold (0.1, 0.1:2)."


def check_ended(reason: str | None, url: str) -> None:
    """Raise QuiltworkError for a stream that ended without saying why."""
    if reason is None:
        raise QuiltworkError("the answer was cut off", where=url)


@contextmanager
def naming_errors(url: str) -> Iterator[None]:
    """What goes wrong inside, as one of our errors."""
    try:
        yield
    except openai.APIConnectionError as error:
        hint = "is it running? `quiltwork up` starts one"
        raise QuiltworkError(f"no answer: {error.__cause__ or error}", where=url, hint=hint) from error
    except openai.APIStatusError as error:
        body = error.body if isinstance(error.body, dict) else {}
        kind = BadInputError if 400 <= error.status_code < 500 and error.status_code != 429 else QuiltworkError
        raise kind(_line(body.get("message") or f"status {error.status_code}"), where=url) from error
    except openai.APIError as error:
        raise QuiltworkError(_line(error.message), where=url) from error
    except JSONDecodeError as error:
        raise QuiltworkError("is not a server of OpenAI's shape", where=url) from error


def _line(text: object) -> str:
    return " ".join(str(text).split())[:_LONGEST_MESSAGE]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "") if names else "none"
