"""Output held to JSON or to a JSON Schema: which tokens may come next (llguidance)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.core.servable import Json

# Without a bound a model may put white space between two tokens of JSON for ever.
_COMPILE = {"whitespace_flexible": True, "whitespace_pattern": r"[\x20\x0A\x0D\x09]{0,8}"}


class TokenGrammar:
    """One sequence's way through a grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def allowed(self, vocab_size: int) -> npt.NDArray[np.bool_]:
        """Which of the model's tokens may come next, (vocab_size,); those the tokenizer does not know may not."""
        known = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        mask = np.zeros(vocab_size, np.bool_)
        width = min(vocab_size, len(known))
        mask[:width] = known[:width]
        return mask

    def accept(self, token: int) -> None:
        """Go on by a token; one that is not allowed leads into ``error``."""
        self._matcher.consume_token(token)

    @property
    def stopped(self) -> bool:
        """Whether the grammar is satisfied and nothing more may follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    @property
    def accepting(self) -> bool:
        """Whether the output may end here."""
        return bool(self._matcher.is_accepting())

    @property
    def error(self) -> str:
        """Why the matcher gave up (a limit of the grammar's size was reached), or an empty string."""
        return str(self._matcher.get_error()) if self._matcher.is_error() else ""

    def copy(self) -> TokenGrammar:
        """Another way through the same grammar, from where this one stands."""
        return TokenGrammar(self._matcher.deep_copy())


class GrammarCompiler:
    """Makes grammars over one tokenizer's vocabulary.

    Parameters
    ----------
    tokenizer_json : the text of a tokenizer.json.
    eos_ids : the model's end-of-sequence tokens, allowed where the output may end.

    Raises UnsupportedError where the tokenizer's tokens cannot be mapped to bytes.
    """

    def __init__(self, tokenizer_json: str, eos_ids: Collection[int]) -> None:
        try:
            self._tokenizer = LLTokenizer(tokenizer_json, eos_token=sorted(eos_ids) or None)
        except ValueError as error:
            raise UnsupportedError(
                f"this model's tokenizer cannot be held to a grammar: {_first_line(error)}", where="response_format"
            ) from error

    def compile(self, response_format: Mapping[str, Json]) -> TokenGrammar | None:
        """The grammar of an OpenAI ``response_format``, or None for plain text.

        Raises BadInputError naming ``response_format`` where the schema is malformed or uses what is not implemented.
        """
        schema = schema_of(response_format)
        if schema is None:
            return None
        where = "response_format.json_schema.schema"
        try:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema, allow_nan=False), overrides=_COMPILE)
        except ValueError as error:
            raise BadInputError(_first_line(error), where=where) from error
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise BadInputError(_first_line(matcher.get_error()), where=where)
        matcher.compute_bitmask()
        if matcher.is_error():  # one that refers to itself alone shows only here
            raise BadInputError("nothing can satisfy it", where=where)
        return TokenGrammar(matcher)


def schema_of(response_format: Mapping[str, Json]) -> Json:
    """The JSON Schema a response format stands for, or None for plain text.

    Raises BadInputError naming the field that is missing, unknown or of the wrong type.
    """
    kind = response_format.get("type")
    where = "response_format"
    fields = {"type", "json_schema"} if kind == "json_schema" else {"type"}
    if unknown := sorted(map(str, set(response_format) - fields)):
        raise BadInputError(f"is not a field of the response format {kind!r}", where=f"{where}.{unknown[0][:60]}")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema":
        raise BadInputError("must be text, json_object or json_schema", where=f"{where}.type")
    described = response_format.get("json_schema")
    if not isinstance(described, Mapping):
        raise BadInputError("must be an object with a schema", where=f"{where}.json_schema")
    if unknown := sorted(map(str, set(described) - {"name", "description", "schema", "strict"})):
        raise BadInputError("is not a field of json_schema", where=f"{where}.json_schema.{unknown[0][:60]}")
    schema = described.get("schema")
    if not isinstance(schema, Mapping):
        raise BadInputError("must be a JSON Schema object", where=f"{where}.json_schema.schema")
    return schema


def _first_line(error: object) -> str:
    text = str(error).strip()
    return " ".join(text.split())[:300] or "is not a grammar"
