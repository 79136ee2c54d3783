"""OpenAI's request bodies as tasks and options of a Servable; what is not implemented is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.core.servable import Input, Json, TaskSchema
from quiltwork.gateway.schemas import check, split

MAX_PROMPTS = 1024
DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's default for /v1/completions; a chat goes on to the end of the context."""

_COMMON = {"model", "stream", "stream_options", "user"}
COMPLETION_FIELDS = frozenset(_COMMON | {"prompt", "echo", "suffix", "best_of"})
CHAT_FIELDS = frozenset(_COMMON | {"messages", "max_completion_tokens", "logprobs", "top_logprobs", "max_tokens"})

_TOKEN_IDS = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}}
_PROMPT: Mapping[str, Json] = {
    "anyOf": [
        {"type": "string"},
        _TOKEN_IDS,
        {"type": "array", "minItems": 1, "maxItems": MAX_PROMPTS, "items": {"type": "string"}},
        {"type": "array", "minItems": 1, "maxItems": MAX_PROMPTS, "items": _TOKEN_IDS},
    ],
    "description": "A text, a list of texts, a list of token ids, or a list of those.",
}
_SHARED: Mapping[str, Json] = {
    "model": {"type": "string", "minLength": 1},
    "stream": {"type": ["boolean", "null"], "default": False},
    "stream_options": {
        "type": ["object", "null"],
        "properties": {"include_usage": {"type": ["boolean", "null"], "default": False}},
        "additionalProperties": False,
    },
    "user": {"type": ["string", "null"], "maxLength": 512, "description": "Written to the access log."},
}


@dataclass(frozen=True)
class Asked:
    """A completion or chat request, understood."""

    model: str
    inputs: tuple[Input, ...]
    options: Mapping[str, Json]
    n: int
    stream: bool
    include_usage: bool
    echo: bool = False
    user: str | None = None

    @property
    def wants_prompt_report(self) -> bool:
        """Whether each stream begins with what the prompt was worth."""
        return "prompt_logprobs" in self.options


def completion_schema(task: TaskSchema) -> dict[str, Json]:
    """The body of /v1/completions, the Servable's options included."""
    own = {
        **_SHARED,
        "prompt": _PROMPT,
        "echo": {"type": ["boolean", "null"], "default": False, "description": "Give the prompt back as well."},
    }
    return _body(own, task.options, ["model", "prompt"])


def chat_schema(task: TaskSchema) -> dict[str, Json]:
    """The body of /v1/chat/completions, the Servable's options included."""
    options = task.options.get("properties", {})
    top = options.get("logprobs", {})
    own = {
        **_SHARED,
        "messages": task.input.get("properties", {}).get("messages", {"type": "array"}),
        "max_tokens": options.get("max_tokens", {"type": ["integer", "null"], "minimum": 0}),
        "max_completion_tokens": options.get("max_tokens", {"type": ["integer", "null"], "minimum": 0}),
        "logprobs": {"type": ["boolean", "null"], "default": False},
        "top_logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": top.get("maximum", 20)},
    }
    return _body(own, task.options, ["model", "messages"])


def _body(own: Mapping[str, Json], options: Mapping[str, Json], required: list[str]) -> dict[str, Json]:
    return {
        "type": "object",
        "properties": {**options.get("properties", {}), **own},
        "required": required,
        "additionalProperties": False,
    }


def read_completion(body: Mapping[str, Json], task: TaskSchema) -> Asked:
    """A body of /v1/completions. Raises BadInputError or UnsupportedError naming the field."""
    own, options = split(body, COMPLETION_FIELDS, task.options)
    for name in ("suffix", "best_of"):
        if name in own:
            raise UnsupportedError("is not implemented", where=name)
    check({**own, **options}, completion_schema(task))
    options.setdefault("max_tokens", DEFAULT_COMPLETION_TOKENS)
    prompt, echo = own["prompt"], bool(own.get("echo", False))
    prompts = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]
    if echo and options.get("logprobs") is not None:
        options["prompt_logprobs"] = options["logprobs"]
    inputs = tuple(Input("completion", {"prompt": item}) for item in prompts)
    return _asked(own, options, inputs, echo=echo)


def read_chat(body: Mapping[str, Json], task: TaskSchema) -> Asked:
    """A body of /v1/chat/completions. Raises BadInputError or UnsupportedError naming the field."""
    own, options = split(body, CHAT_FIELDS, task.options)
    # What stands in a message is for the Servable to judge: it names what it does not implement.
    loose = chat_schema(task)
    loose["properties"]["messages"] = {"type": "array"}
    check({**own, **options}, loose)
    limits = {name: own[name] for name in ("max_completion_tokens", "max_tokens") if name in own}
    if len(set(limits.values())) > 1:
        raise BadInputError("differs from max_completion_tokens", where="max_tokens")
    if limits:
        options["max_tokens"] = next(iter(limits.values()))
    if own.get("logprobs"):
        options["logprobs"] = own.get("top_logprobs", 0)
    elif "top_logprobs" in own:
        raise BadInputError("needs logprobs to be true", where="top_logprobs")
    return _asked(own, options, (Input("chat", {"messages": own["messages"]}),), echo=False)


def _asked(own: Mapping[str, Json], options: Mapping[str, Json], inputs: tuple[Input, ...], *, echo: bool) -> Asked:
    stream = bool(own.get("stream", False))
    if "stream_options" in own and not stream:
        raise BadInputError("needs stream to be true", where="stream_options")
    return Asked(
        model=own["model"],
        inputs=inputs,
        options=options,
        n=int(options.get("n", 1)),
        stream=stream,
        include_usage=bool((own.get("stream_options") or {}).get("include_usage")),
        echo=echo,
        user=own.get("user"),
    )
