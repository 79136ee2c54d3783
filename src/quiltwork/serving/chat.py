"""Messages to the text a chat model was trained on, by its own template."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.core.servable import Json

ROLES = ("system", "developer", "user", "assistant", "tool")
# What Python raises for a template's own mistakes.
_TEMPLATE_ERRORS = (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError,
                    RecursionError, MemoryError)  # fmt: skip
MESSAGES_SCHEMA: Mapping[str, Json] = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": {"enum": list(ROLES)},
            "content": {
                "anyOf": [
                    {"type": "null"},
                    {"type": "string"},
                    {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["type", "text"],
                            "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                        },
                    },
                ]
            },
            "name": {"type": ["string", "null"]},
        },
    },
}


def check_messages(messages: Json) -> list[dict[str, str]]:
    """Messages with their content as one string each.

    Raises BadInputError naming the message and field that is wrong, UnsupportedError for content that is not text.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise BadInputError("must be a list of at least one message", where="messages")
    return [_check_message(message, f"messages[{at}]") for at, message in enumerate(messages)]


def _check_message(message: Json, where: str) -> dict[str, str]:
    if not isinstance(message, Mapping):
        raise BadInputError("must be an object with a role and content", where=where)
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise BadInputError(f"must be one of {', '.join(ROLES)}", where=f"{where}.role")
    for field, value in message.items():
        # Clients send back whole replies, in which fields that are not used are null or empty.
        if field not in ("role", "content", "name") and value not in (None, [], {}, ""):
            raise UnsupportedError("is not implemented", where=f"{where}.{str(field)[:60]}")
    checked = {"role": role, "content": _check_content(message.get("content"), f"{where}.content")}
    name = message.get("name")
    if name is not None:
        if not isinstance(name, str):
            raise BadInputError("must be a string", where=f"{where}.name")
        checked["name"] = name
    return checked


def _check_content(content: Json, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        raise BadInputError("must be a string or a list of parts", where=where)
    texts: list[str] = []
    for at, part in enumerate(content):
        if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
            raise BadInputError("must be an object with a type", where=f"{where}[{at}]")
        if part["type"] != "text":
            raise UnsupportedError(f"a part of type {part['type'][:60]!r} is not implemented", where=f"{where}[{at}]")
        if not isinstance(part.get("text"), str):
            raise BadInputError("must be a string", where=f"{where}[{at}].text")
        texts.append(part["text"])
    return "\n".join(texts)


class ChatTemplate:
    """A compiled chat template, in the sandbox and with the globals that transformers gives one.

    Parameters
    ----------
    source : the Jinja template.
    tokens : ``bos_token``, ``eos_token`` and the like.
    now : the time that ``strftime_now`` tells.

    Raises BadInputError where the template is malformed.
    """

    def __init__(self, source: str, tokens: Mapping[str, str], now: Callable[[], datetime]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: now().strftime(form)
        self._tokens = tokens
        self._knows_developer = "developer" in source
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise BadInputError(f"is malformed: {str(error)[:200]}", where="chat template") from error

    def render(self, messages: Json) -> str:
        """The prompt, ready for the assistant's answer. Raises BadInputError naming what is wrong with ``messages``."""
        checked = check_messages(messages)
        if not self._knows_developer:
            # OpenAI's newer name of the same role.
            checked = [{**m, "role": "system"} if m["role"] == "developer" else m for m in checked]
        try:
            return self._template.render(
                messages=checked, tools=None, documents=None, add_generation_prompt=True, **self._tokens
            )
        except _TEMPLATE_ERRORS as error:
            raise BadInputError(
                f"the model's chat template refuses these: {str(error)[:300]}", where="messages"
            ) from error


def no_template(model: str) -> BadInputError:
    """What to answer where a model has no template."""
    return BadInputError(
        f"{model} has no chat template",
        where="messages",
        hint="start with --chat-template FILE, or use /v1/completions",
    )


class _Generation(Extension):
    """``{% generation %}``, which marks the assistant's text for training; here it is only its body."""

    tags = {"generation"}  # noqa: RUF012  jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None,
             separators: tuple[str, str] | None = None, sort_keys: bool = False) -> str:  # fmt: skip
    # Jinja's own escapes HTML characters.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
