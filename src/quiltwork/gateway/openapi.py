"""The OpenAPI document: the routes' own entries plus the bodies that Servables declare."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from quiltwork.core.servable import Json, TaskSchema
from quiltwork.gateway.admin_routes import LOAD_ADAPTER, LOAD_MODEL, MODEL, UNLOAD_ADAPTER
from quiltwork.gateway.directory import Directory
from quiltwork.gateway.embedding_routes import EMBEDDED, EMBEDDINGS
from quiltwork.gateway.openai_requests import chat_schema, completion_schema
from quiltwork.gateway.task_routes import OPENAI_TASKS, PLAIN_PATHS, binary_fields, body_schema

ERROR: Mapping[str, Json] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
_LANGUAGE = TaskSchema(input={}, output={}, options={"properties": {}})


def complete(document: dict[str, Json], directory: Directory, *, keys: bool) -> dict[str, Json]:
    """Fill in request bodies, error answers and how to bring a key."""
    document = copy.deepcopy(document)
    components = document.setdefault("components", {})
    components["schemas"] = {"Error": dict(ERROR)}
    if keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    for path, body in _bodies(directory).items():
        document["paths"][path]["post"]["requestBody"] = {"required": True, "content": body}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            _answers(operation["responses"], path, method, directory)
    return document


def _bodies(directory: Directory) -> dict[str, Json]:
    def json(schema: Json) -> Json:
        return {"application/json": {"schema": schema}}

    bodies = {
        "/v1/completions": json(completion_schema(_first(directory.schemas("completion")))),
        "/v1/chat/completions": json(chat_schema(_first(directory.schemas("chat")))),
        "/v1/embeddings": json(dict(EMBEDDINGS)),
        "/v1/load_lora_adapter": json(dict(LOAD_ADAPTER)),
        "/v1/unload_lora_adapter": json(dict(UNLOAD_ADAPTER)),
        "/models/load": json(dict(LOAD_MODEL)),
        "/models/unload": json(dict(MODEL)),
    }
    for task in {task for servable in directory.servables.values() for task in servable.tasks()} - OPENAI_TASKS:
        schemas = [body_schema(task, schema) for schema in directory.schemas(task)]
        content = json(schemas[0] if len(schemas) == 1 else {"anyOf": schemas})
        if any(binary_fields(schema) for schema in directory.schemas(task)):
            content["multipart/form-data"] = {"schema": _multipart(schemas[0])}
        for path in {PLAIN_PATHS.get(task, f"/v1/{task}"), f"/v1/{task}"}:
            bodies[path] = content
    return bodies


def _multipart(schema: Mapping[str, Json]) -> dict[str, Json]:
    """The same body as a form: what is base64 in JSON is a file here."""

    def field(declared: Mapping[str, Json]) -> dict[str, Json]:
        kept = {name: value for name, value in declared.items() if name != "contentEncoding"}
        return {**kept, "items": field(kept["items"])} if isinstance(kept.get("items"), Mapping) else kept

    return {**schema, "properties": {name: field(value) for name, value in schema["properties"].items()}}


def _first(schemas: Sequence[TaskSchema]) -> TaskSchema:
    return schemas[0] if schemas else _LANGUAGE


def _answers(responses: dict[str, Json], path: str, method: str, directory: Directory) -> None:
    responses.pop("422", None)
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    codes = {"400": "What is wrong with the request, by field", "401": "No key, or an unknown one"}
    if method == "post":
        codes |= {"403": "The key may not do this", "404": "No such model", "409": "The name is taken",
                  "413": "The body is too long", "415": "The body is of the wrong kind",
                  "429": "Too much at once: see Retry-After", "499": "The client has gone"}  # fmt: skip
    elif "{" in path or path in ("/metrics", "/v1/status"):
        codes |= {"403": "The key may not do this", "404": "No such model"}
    codes["503"] = "Shutting down"
    for code, description in codes.items():
        responses[code] = {"description": description, "content": error}
    if path in ("/metrics", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
        responses["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    if path in ("/v1/completions", "/v1/chat/completions"):
        responses["200"]["content"] = {
            "application/json": {"schema": {"type": "object", "required": ["id", "choices", "usage"]}},
            "text/event-stream": {"schema": {"type": "string"}},
        }
    if path == "/v1/embeddings":
        responses["200"]["content"] = {"application/json": {"schema": dict(EMBEDDED)}}
    for task in {t for s in directory.servables.values() for t in s.tasks()} - OPENAI_TASKS:
        if path in (PLAIN_PATHS.get(task), f"/v1/{task}"):
            schema = directory.schemas(task)[0]
            plain = schema.output
            if schema.streams:
                plain = {"type": "object", "properties": {"parts": {"type": "array", "items": schema.output}}}
            responses["200"]["content"] = {"application/json": {"schema": plain}}
            if schema.streams:
                responses["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}}
