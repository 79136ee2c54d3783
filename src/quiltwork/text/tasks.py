"""What a server of sentence models can be asked, as JSON Schemas, and a request understood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.core.servable import Input, Json, TaskSchema

MOST_SENTENCES = 2048
"""In one list of a request, as OpenAI has it."""
MOST_CELLS = 1_000_000
"""Of a matrix of scores."""

_SENTENCES: Mapping[str, Json] = {
    "type": "array", "minItems": 1, "maxItems": MOST_SENTENCES, "items": {"type": "string"},
}  # fmt: skip
_FLAGS: Mapping[str, Json] = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_SCORE: Mapping[str, Json] = {"type": ["number", "null"], "description": "At most 1; null where a sentence is empty to "
                              "the model."}  # fmt: skip
_USAGE: Mapping[str, Json] = {
    "type": "object",
    "properties": {"prompt_tokens": {"type": "integer"}, "total_tokens": {"type": "integer"}},
}
_PAIR: Mapping[str, Json] = {
    "type": "object",
    "properties": {
        "score": _SCORE,
        "rating": {
            "type": ["object", "null"],
            "description": "What people would say, from 0 (another topic) to 4 (equivalent), and the interval that "
            "holds their word with this chance; null for a model that is not calibrated.",
            "properties": {name: {"type": "number"} for name in ("value", "low", "high", "coverage")},
        },
        "polarity": {
            "type": "object",
            "description": "Whether one says the opposite of the other, and the words that tell.",
            "properties": {
                "kind": {"enum": ["same", "opposite", "unknown"]},
                "overlap": {"type": "number"},
                "evidence": {"type": "array", "items": {"type": "object"}},
            },
        },
        "truncated": {"type": "boolean"},
        "explain": {"type": "object"},
    },
}
TASKS: Mapping[str, TaskSchema] = {
    "embeddings": TaskSchema(
        {"type": "object", "properties": {"input": _SENTENCES}, "required": ["input"]},
        {
            "type": "object",
            "properties": {
                "dimensions": {"type": "integer"},
                "vectors": {"type": "string", "contentEncoding": "base64",
                            "contentMediaType": "application/octet-stream",
                            "description": "float32, little end first, a row for each sentence"},
                "unknown": _FLAGS, "truncated": _FLAGS, "usage": _USAGE,
            },
        },
        {
            "type": "object",
            "properties": {"dimensions": {"type": ["integer", "null"], "minimum": 1, "maximum": 2**20}},
            "additionalProperties": False,
        },
    ),
    "similarity": TaskSchema(
        {
            "type": "object",
            "properties": {
                "pairs": {
                    "type": "array", "minItems": 1, "maxItems": MOST_SENTENCES,
                    "items": {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "string"}},
                    "description": "Sentences to compare two by two.",
                },
                "a": {**_SENTENCES, "description": "With b: every sentence of a with every one of b."},
                "b": _SENTENCES,
            },
        },
        {
            "type": "object",
            "properties": {
                "model": {"type": "string"},
                "pairs": {"type": "array", "items": _PAIR},
                "matrix": {"type": "array", "items": {"type": "array", "items": _SCORE}},
                "truncated": {"type": "object", "properties": {"a": _FLAGS, "b": _FLAGS}},
                "usage": _USAGE,
            },
        },
        {
            "type": "object",
            "properties": {
                "explain": {"type": ["boolean", "null"], "default": False,
                            "description": "Which words stand for each other, which are missing, which deny."}
            },
            "additionalProperties": False,
        },
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """A request, understood: ``left`` alone to embed, ``left`` and ``right`` place by place, or each with each."""

    what: Literal["vectors", "pairs", "matrix"]
    left: tuple[str, ...]
    right: tuple[str, ...] = ()
    explain: bool = False
    dimensions: int | None = None

    @property
    def sentences(self) -> tuple[str, ...]:
        """All of them, left first."""
        return self.left + self.right


def understand(input: Input, options: Mapping[str, Json]) -> Asked:
    """A request of one of ``TASKS``. Raises BadInputError naming the field; UnsupportedError for an unknown task."""
    if input.task == "embeddings":
        return Asked("vectors", _sentences(input.fields, "input"), dimensions=_dimensions(options))
    if input.task != "similarity":
        raise UnsupportedError(f"{input.task[:40]!r} is not a task of sentence models", where="task")
    explain = _flag(options, "explain")
    given = sorted(name for name in ("pairs", "a", "b") if input.fields.get(name) is not None)
    if given == ["pairs"]:
        pairs = input.fields["pairs"]
        if not isinstance(pairs, list) or not 1 <= len(pairs) <= MOST_SENTENCES:
            raise BadInputError(f"must be a list of 1 to {MOST_SENTENCES} pairs", where="pairs")
        if not all(
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(s, str) for s in pair) for pair in pairs
        ):
            raise BadInputError("must hold lists of two sentences", where="pairs")
        left, right = zip(*pairs, strict=True)
        return Asked("pairs", left, right, explain)
    if given != ["a", "b"]:
        raise BadInputError("give either pairs, or a and b", where=given[0] if given else "pairs")
    if explain:
        raise BadInputError("is for pairs, not for a matrix", where="explain")
    a, b = _sentences(input.fields, "a"), _sentences(input.fields, "b")
    if len(a) * len(b) > MOST_CELLS:
        raise BadInputError(f"{len(a)} x {len(b)} scores are more than {MOST_CELLS}", where="a")
    return Asked("matrix", a, b)


def _sentences(fields: Mapping[str, Json], name: str) -> tuple[str, ...]:
    given = fields.get(name)
    if not isinstance(given, list) or not 1 <= len(given) <= MOST_SENTENCES:
        raise BadInputError(f"must be a list of 1 to {MOST_SENTENCES} sentences", where=name)
    if not all(isinstance(sentence, str) for sentence in given):
        raise BadInputError("must hold texts", where=name)
    return tuple(given)


def _dimensions(options: Mapping[str, Json]) -> int | None:
    value = options.get("dimensions")
    if value is not None and (type(value) is not int or value < 1):
        raise BadInputError(f"{value!r:.40} is not a number from 1 up", where="dimensions")
    return value


def _flag(options: Mapping[str, Json], name: str) -> bool:
    value = options.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadInputError("must be true or false", where=name)
    return bool(value)
