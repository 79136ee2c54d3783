"""The language tasks as JSON Schemas, and the check of what comes in."""

from __future__ import annotations

from collections.abc import Mapping

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Input, Json, TaskSchema
from quiltwork.serving.chat import MESSAGES_SCHEMA
from quiltwork.serving.options import OPTIONS_SCHEMA

_INTEGER = {"type": "integer"}
_TOKEN_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_TOKEN = {
    "type": "object",
    "required": ["id", "token", "bytes", "logprob"],
    "properties": {
        "id": _INTEGER,
        "token": {"type": "string"},
        "bytes": {"type": "array", "items": _INTEGER},
        "logprob": {"type": "number"},
        "top": {"type": "array", "items": {"type": "object"}},
    },
}
_PART = {
    "type": "object",
    "properties": {
        "index": _INTEGER,
        "text": {"type": "string"},
        "token_ids": {"type": "array", "items": _INTEGER},
        "logprobs": {"type": ["array", "null"], "items": _TOKEN},
        "finish_reason": {"enum": [None, "stop", "length"]},
        "stop_reason": {"type": ["null", "string", "integer"]},
        "prompt_logprobs": {"type": "array", "items": {"anyOf": [{"type": "null"}, _TOKEN]}},
        "prompt_token_ids": {"type": "array", "items": _INTEGER},
        "prompt_text": {"type": "string"},
        "usage": {
            "type": "object",
            "properties": dict.fromkeys(
                (
                    "prompt_tokens",
                    "completion_tokens",
                    "cached_tokens",
                    "accepted_prediction_tokens",
                    "rejected_prediction_tokens",
                    "relaxed_prediction_tokens",
                    "experts_taken",
                    "expert_layer_tokens",
                ),
                _INTEGER,
            ),
        },
        "served": {"type": "object"},
        "explain": {
            "type": "object",
            "required": ["choices"],
            "properties": {
                "choices": {
                    "type": "array",
                    "items": {"type": "object", "required": ["index", "hops", "batches", "kv", "seconds"]},
                }
            },
        },
    },
}
_NO_OPTIONS: Mapping[str, Json] = {"type": "object", "properties": {}, "additionalProperties": False}


def _input(**properties: Json) -> Mapping[str, Json]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


TASKS: Mapping[str, TaskSchema] = {
    "completion": TaskSchema(
        input={**_input(prompt={"anyOf": [{"type": "string"}, _TOKEN_IDS]}), "required": ["prompt"]},
        output=_PART,
        options=OPTIONS_SCHEMA,
        streams=True,
    ),
    "chat": TaskSchema(
        input={**_input(messages=MESSAGES_SCHEMA), "required": ["messages"]},
        output=_PART,
        options=OPTIONS_SCHEMA,
        streams=True,
    ),
    "tokenize": TaskSchema(
        input={
            **_input(prompt={"type": "string"}, add_special_tokens={"type": "boolean"}, messages=MESSAGES_SCHEMA),
            "oneOf": [{"required": ["prompt"]}, {"required": ["messages"]}],
        },
        output={
            "type": "object",
            "properties": {
                "tokens": {"type": "array", "items": _INTEGER},
                "token_strs": {"type": "array", "items": {"type": "string"}},
                "count": _INTEGER,
                "max_model_len": _INTEGER,
            },
        },
        options=_NO_OPTIONS,
    ),
    "detokenize": TaskSchema(
        input={**_input(tokens={**_TOKEN_IDS, "minItems": 0}), "required": ["tokens"]},
        output={"type": "object", "properties": {"prompt": {"type": "string"}}},
        options=_NO_OPTIONS,
    ),
}


def check_fields(input: Input) -> None:
    """Raise BadInputError naming the task or field that is unknown, missing or of the wrong type.

    What stands inside messages is checked where they are rendered.
    """
    task = TASKS.get(input.task)
    if task is None:
        raise BadInputError(f"{input.task[:60]!r} is not one of {', '.join(TASKS)}", where="task")
    if input.blobs:
        raise BadInputError("this task takes no binary field", where=sorted(input.blobs)[0])
    for name in input.fields:
        if name not in task.input["properties"]:
            raise BadInputError(f"is not a field of {input.task}", where=str(name)[:60])
    fields = input.fields
    if input.task == "tokenize":
        if (fields.get("prompt") is None) == (fields.get("messages") is None):
            raise BadInputError("give either prompt or messages", where="prompt")
        if fields.get("messages") is not None:
            return
        if not isinstance(fields["prompt"], str):
            raise BadInputError("must be a string", where="prompt")
        if not isinstance(fields.get("add_special_tokens", True), bool):
            raise BadInputError("must be true or false", where="add_special_tokens")
        return
    name = {"completion": "prompt", "chat": "messages", "detokenize": "tokens"}[input.task]
    value = fields.get(name)
    if value is None:
        raise BadInputError("is missing", where=name)
    if input.task == "completion" and not isinstance(value, str | list | tuple):
        raise BadInputError("must be a string or a list of token ids", where=name)
    if input.task == "detokenize" and not isinstance(value, list | tuple):
        raise BadInputError("must be a list of token ids", where=name)
