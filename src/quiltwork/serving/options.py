"""What a caller may ask of a completion, as JSON Schema and as validated data."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json
from quiltwork.serving.experts import EXPERTS_SCHEMA, parse_experts

MAX_CHOICES = 128
MAX_STOP_STRINGS = 10_000
MAX_STOP_CHARACTERS = 1 << 20
MAX_TOP_LOGPROBS = 20
MAX_BIASED_TOKENS = 4096
MAX_STOP_TOKENS = 4096
MAX_RESPONSE_FORMAT_CHARACTERS = 1 << 18
RELAXED_SHARE = 0.5
"""Of the most likely token's probability, that a drafted token needs where speculation is relaxed."""
GREEDY_BELOW = 1e-5
"""A temperature below this is greedy decoding."""

_COUNT = 2**31 - 1
_SEED = 2**63

OPTIONS_SCHEMA: Mapping[str, Json] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "max_tokens": {
            "type": ["integer", "null"],
            "minimum": 0,
            "maximum": _COUNT,
            "description": "Most tokens to generate; what fits the model's context where absent.",
        },
        "min_tokens": {
            "type": ["integer", "null"],
            "minimum": 0,
            "maximum": _COUNT,
            "default": 0,
            "description": "No end-of-sequence or stop token is sampled before this many tokens.",
        },
        "temperature": {
            "type": ["number", "null"],
            "minimum": 0,
            "maximum": 100,
            "description": "Divides the logits; 0 is greedy. The model's own default, else 1, where absent.",
        },
        "top_p": {
            "type": ["number", "null"],
            "exclusiveMinimum": 0,
            "maximum": 1,
            "description": "Sample from the smallest set of tokens with at least this mass.",
        },
        "top_k": {
            "type": ["integer", "null"],
            "minimum": -1,
            "maximum": _COUNT,
            "description": "Sample from the k most likely tokens; 0 or -1: all.",
        },
        "min_p": {
            "type": ["number", "null"],
            "minimum": 0,
            "maximum": 1,
            "description": "Sample from tokens at least this likely relative to the most likely one.",
        },
        "presence_penalty": {
            "type": ["number", "null"],
            "minimum": -2,
            "maximum": 2,
            "default": 0,
            "description": "Subtracted from the logit of every token generated so far.",
        },
        "frequency_penalty": {
            "type": ["number", "null"],
            "minimum": -2,
            "maximum": 2,
            "default": 0,
            "description": "Subtracted from a token's logit once per time it was generated.",
        },
        "repetition_penalty": {
            "type": ["number", "null"],
            "exclusiveMinimum": 0,
            "maximum": 100,
            "description": "Divides positive and multiplies negative logits of tokens in prompt or output.",
        },
        "logit_bias": {
            "type": ["object", "null"],
            "maxProperties": MAX_BIASED_TOKENS,
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
            "description": "Token id -> added to its logit.",
        },
        "seed": {
            "type": ["integer", "null"],
            "minimum": -_SEED,
            "maximum": _SEED - 1,
            "description": "The same seed and request sample the same tokens.",
        },
        "stop": {
            "anyOf": [
                {"type": "null"},
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": MAX_STOP_STRINGS},
            ],
            "description": "Generation ends where one of these appears; it is not part of the text.",
        },
        "stop_token_ids": {
            "type": ["array", "null"],
            "items": {"type": "integer", "minimum": 0},
            "maxItems": MAX_STOP_TOKENS,
            "description": "Generation ends after one of these tokens.",
        },
        "ignore_eos": {
            "type": ["boolean", "null"],
            "default": False,
            "description": "Go on after the end-of-sequence token.",
        },
        "logprobs": {
            "type": ["integer", "null"],
            "minimum": 0,
            "maximum": MAX_TOP_LOGPROBS,
            "description": "Give each token's log-probability under the model (before temperature, penalties and "
            "masks), and those of this many most likely tokens.",
        },
        "prompt_logprobs": {
            "type": ["integer", "null"],
            "minimum": 0,
            "maximum": MAX_TOP_LOGPROBS,
            "description": "The same for the prompt's tokens.",
        },
        "n": {
            "type": ["integer", "null"],
            "minimum": 1,
            "maximum": MAX_CHOICES,
            "default": 1,
            "description": "How many independent choices.",
        },
        "response_format": {
            "type": ["object", "null"],
            "required": ["type"],
            "properties": {"type": {"enum": ["text", "json_object", "json_schema"]}},
            "description": "Hold the output to JSON, or to a JSON Schema.",
        },
        "adapter_scale": {
            "type": ["number", "null"],
            "minimum": -16,
            "maximum": 16,
            "default": 1,
            "x-changes-state": True,
            "description": "Multiplies what the model's adapter adds.",
        },
        "experts": EXPERTS_SCHEMA,
        "public_prefix": {
            "type": ["boolean", "null"],
            "default": False,
            "description": "The prompt holds nothing private: its cached state may be shared with other tenants.",
        },
        "speculation": {
            "enum": ["exact", "off", "relaxed", None],
            "default": "exact",
            "description": "Where the model has a draft: exact gives the very tokens that off gives, in less time. "
            "relaxed also takes drafted tokens that are nearly as likely as any: the answer may be another one. Only "
            "for whom the server allows it.",
        },
        "relaxed_share": {
            "type": ["number", "null"],
            "exclusiveMinimum": 0,
            "maximum": 1,
            "description": "With relaxed speculation: the share of the most likely token's probability that a drafted "
            f"one must have to be taken; {RELAXED_SHARE} where absent. With 1 greedy answers are those of exact.",
        },
        "quality_budget": {
            "type": ["number", "null"],
            "minimum": 0,
            "maximum": 100,
            "description": "Nats per token that the answer may lose where an adapted model stands in; never more than "
            "the tenant allows, and 0 for the exact model alone.",
        },
        "explain": {
            "type": ["boolean", "null"],
            "default": False,
            "description": "Tell with the end of the reply which segments, batches and cached pages it went through, "
            "and where its time went.",
        },
    },
}


@dataclass(frozen=True)
class SamplingOptions:
    """How the next token is drawn. The defaults sample from the model's own distribution."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 for all tokens."""
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    min_tokens: int = 0
    seed: int | None = None
    logprobs: int | None = None
    """How many most likely tokens to report beside the sampled one's log-probability; None for neither."""

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature < GREEDY_BELOW


@dataclass(frozen=True)
class RequestOptions:
    """All options of a completion or chat request."""

    sampling: SamplingOptions = SamplingOptions()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    prompt_logprobs: int | None = None
    n: int = 1
    response_format: Mapping[str, Json] | None = None
    adapter_scale: float = 1.0
    experts: Mapping[str, Json] | None = None
    """How many experts a token takes, as ``parse_experts`` has it; None for the model's own gate."""
    public_prefix: bool = False
    explain: bool = False
    speculation: bool = True
    """Whether a draft may be used; unless it is relaxed, the tokens are the same either way."""
    relaxed_share: float | None = None
    """Where speculation is relaxed: share of the most likely token's probability that a drafted one must have."""
    quality_budget: float | None = None
    """Nats per token that the answer may lose; None for what the tenant allows."""


def parse_options(
    options: Mapping[str, Json],
    *,
    vocab_size: int,
    defaults: Mapping[str, Json] = MappingProxyType({}),
    allowed: Collection[str] | None = None,
) -> RequestOptions:
    """Validate a request's options; ``null`` stands for the default, as in OpenAI's API.

    ``defaults`` are the model's own (its generation_config.json) for temperature, top_p, top_k, min_p and
    repetition_penalty. Raises BadInputError naming the option that is unknown, of the wrong type or out of range.
    """
    known = OPTIONS_SCHEMA["properties"]
    for name in options:
        if name not in known or (allowed is not None and name not in allowed):
            raise BadInputError("is not an option of this task", where=str(name)[:100])
    read = _Reader({**defaults, **{name: value for name, value in options.items() if value is not None}})
    top_k = read.integer("top_k", 0)
    sampling = SamplingOptions(
        temperature=read.number("temperature", 1.0),
        top_p=read.number("top_p", 1.0),
        top_k=0 if top_k < 0 else top_k,
        min_p=read.number("min_p", 0.0),
        presence_penalty=read.number("presence_penalty", 0.0),
        frequency_penalty=read.number("frequency_penalty", 0.0),
        repetition_penalty=read.number("repetition_penalty", 1.0),
        logit_bias=read.biases("logit_bias", vocab_size),
        min_tokens=read.integer("min_tokens", 0),
        seed=read.optional_integer("seed"),
        logprobs=read.optional_integer("logprobs"),
    )
    max_tokens = read.optional_integer("max_tokens")
    if max_tokens is not None and sampling.min_tokens > max_tokens:
        raise BadInputError(f"is above max_tokens ({max_tokens})", where="min_tokens")
    return RequestOptions(
        sampling=sampling,
        max_tokens=max_tokens,
        stop=read.strings("stop"),
        stop_token_ids=read.token_ids("stop_token_ids", vocab_size),
        ignore_eos=read.boolean("ignore_eos", False),
        prompt_logprobs=read.optional_integer("prompt_logprobs"),
        n=read.integer("n", 1),
        response_format=read.response_format("response_format"),
        adapter_scale=read.number("adapter_scale", 1.0),
        experts=parse_experts(options.get("experts")),
        public_prefix=read.boolean("public_prefix", False),
        explain=read.boolean("explain", False),
        speculation=read.speculation("speculation"),
        quality_budget=read.optional_number("quality_budget"),
        relaxed_share=read.relaxed_share("relaxed_share"),
    )


class _Reader:
    """Takes fields out of a mapping with the bounds that OPTIONS_SCHEMA declares for them."""

    def __init__(self, values: Mapping[str, Json]) -> None:
        self._values = values

    def number(self, name: str, default: float) -> float:
        value = self._values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadInputError(f"must be a number, not {_shown(value)}", where=name)
        return float(_in_range(name, value))

    def optional_number(self, name: str) -> float | None:
        return self.number(name, 0.0) if name in self._values else None

    def optional_integer(self, name: str) -> int | None:
        if name not in self._values:
            return None
        value = self._values[name]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadInputError(f"must be an integer, not {_shown(value)}", where=name)
        return int(_in_range(name, value))

    def integer(self, name: str, default: int) -> int:
        value = self.optional_integer(name)
        return default if value is None else value

    def boolean(self, name: str, default: bool) -> bool:
        value = self._values.get(name, default)
        if not isinstance(value, bool):
            raise BadInputError(f"must be true or false, not {_shown(value)}", where=name)
        return value

    def speculation(self, name: str) -> bool:
        value = self._values.get(name, "exact")
        if value not in ("exact", "off", "relaxed"):
            raise BadInputError(f"must be exact, off or relaxed, not {_shown(value)}", where=name)
        return bool(value != "off")

    def relaxed_share(self, name: str) -> float | None:
        if self._values.get("speculation") == "relaxed":
            return self.number(name, RELAXED_SHARE)
        if name in self._values:
            raise BadInputError("is for relaxed speculation only", where=name)
        return None

    def strings(self, name: str) -> tuple[str, ...]:
        value = self._values.get(name, [])
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
            raise BadInputError("must be a string or a list of strings", where=name)
        if len(items) > MAX_STOP_STRINGS:
            raise BadInputError(f"has {len(items)} strings; at most {MAX_STOP_STRINGS} are allowed", where=name)
        if not all(items):
            raise BadInputError("must not hold an empty string", where=name)
        if sum(map(len, items)) > MAX_STOP_CHARACTERS:
            raise BadInputError(f"is longer than {MAX_STOP_CHARACTERS} characters in all", where=name)
        return tuple(dict.fromkeys(items))

    def token_ids(self, name: str, vocab_size: int) -> frozenset[int]:
        value = self._values.get(name, [])
        if not isinstance(value, list | tuple):
            raise BadInputError("must be a list of token ids", where=name)
        if len(value) > MAX_STOP_TOKENS:
            raise BadInputError(f"has {len(value)} ids; at most {MAX_STOP_TOKENS} are allowed", where=name)
        return frozenset(check_token_id(item, vocab_size, where=name) for item in value)

    def biases(self, name: str, vocab_size: int) -> Mapping[int, float]:
        value = self._values.get(name, {})
        if not isinstance(value, Mapping):
            raise BadInputError("must be an object of token id -> bias", where=name)
        if len(value) > MAX_BIASED_TOKENS:
            raise BadInputError(f"has {len(value)} entries; at most {MAX_BIASED_TOKENS} are allowed", where=name)
        biases: dict[int, float] = {}
        for key, bias in value.items():
            # JSON has string keys only.
            token: Json = key
            if isinstance(key, str) and len(key) <= 10 and key.isascii() and key.isdigit():
                token = int(key)
            if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
                raise BadInputError(
                    f"the bias of {_shown(key)} must be a number from -100 to 100, not {_shown(bias)}", where=name
                )
            biases[check_token_id(token, vocab_size, where=name)] = float(bias)
        return biases

    def response_format(self, name: str) -> Mapping[str, Json] | None:
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise BadInputError("must be an object with a type", where=name)
        kind = value.get("type")
        if kind not in ("text", "json_object", "json_schema"):
            raise BadInputError(f"must be text, json_object or json_schema, not {_shown(kind)}", where=f"{name}.type")
        try:
            size = len(json.dumps(value))
        except (ValueError, TypeError, RecursionError) as error:
            raise BadInputError("is not JSON, or is nested too deeply", where=name) from error
        if size > MAX_RESPONSE_FORMAT_CHARACTERS:
            raise BadInputError(f"is longer than {MAX_RESPONSE_FORMAT_CHARACTERS} characters", where=name)
        return value


def check_token_id(token: Json, vocab_size: int, *, where: str) -> int:
    """Return ``token`` if it is an id of the vocabulary, else raise BadInputError."""
    if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab_size:
        raise BadInputError(
            f"{_shown(token)} is not a token id of this model", where=where, hint=f"ids are 0 to {vocab_size - 1}"
        )
    return token


def _in_range(name: str, value: int | float) -> int | float:
    bounds = OPTIONS_SCHEMA["properties"][name]
    low, high = bounds.get("minimum"), bounds["maximum"]
    above = bounds.get("exclusiveMinimum")
    # NaN fails every comparison.
    if value <= high and (value >= low if low is not None else value > above):
        return value
    lower = f"at least {low}" if low is not None else f"above {above}"
    raise BadInputError(f"must be {lower} and at most {high}, not {_shown(value)}", where=name)


def _shown(value: Json) -> str:
    """The value as it may stand in an error message: short, and never able to fail."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**20:
        return "an integer of that size"
    if isinstance(value, Mapping | list | tuple):
        return "an object" if isinstance(value, Mapping) else "a list"
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
