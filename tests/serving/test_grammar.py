import json
import random

import jsonschema
import pytest
from tiny_text import byte_level, metaspace

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.serving.grammar import GrammarCompiler
from quiltwork.serving.text import load_codec

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["naïve", "日本", "🙂"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


def held_to(schema):
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, "strict": True}}


@pytest.mark.parametrize(("make", "eos"), [(byte_level, 1), (metaspace, 2)])
def test_any_walk_through_a_grammar_is_json_of_the_schema(make, eos):
    tokenizer = make()
    compiler = GrammarCompiler(tokenizer.to_str(), {eos})
    codec = load_codec({"tokenizer.json": tokenizer.to_str().encode()}.get)
    start = compiler.compile(held_to(SCHEMA))
    for seed in range(8):
        grammar, choose, ids = start.copy(), random.Random(seed), []
        while not grammar.stopped:
            allowed = grammar.allowed(codec.size + 50).nonzero()[0].tolist()
            assert max(allowed) < codec.size, "the model's spare rows are never allowed"
            ids.append(choose.choice(allowed))
            grammar.accept(ids[-1])
            assert not grammar.error
        jsonschema.validate(json.loads(codec.decode(ids)), SCHEMA)


def test_the_end_token_is_allowed_only_where_the_output_may_end():
    tokenizer = byte_level()
    compiler = GrammarCompiler(tokenizer.to_str(), {1})
    grammar = compiler.compile(held_to({"type": "integer"}))
    assert not grammar.allowed(400)[1]
    grammar.accept(tokenizer.token_to_id("4"))
    assert grammar.accepting
    assert grammar.allowed(400)[1]
    grammar.accept(1)
    assert grammar.stopped
    assert not grammar.error


def test_a_token_that_is_not_allowed_is_an_error_that_stays():
    grammar = GrammarCompiler(byte_level().to_str(), {1}).compile({"type": "json_object"})
    grammar.accept(5)
    assert grammar.error
    assert not grammar.stopped


def test_white_space_between_tokens_is_bounded():
    tokenizer = byte_level()
    space = tokenizer.token_to_id("Ġ")
    grammar = GrammarCompiler(tokenizer.to_str(), {1}).compile({"type": "json_object"})
    grammar.accept(tokenizer.token_to_id("{"))
    for _ in range(20):
        if not grammar.allowed(400)[space]:
            return
        grammar.accept(space)
    pytest.fail("white space goes on for ever")


def test_plain_text_needs_no_grammar():
    assert GrammarCompiler(byte_level().to_str(), {1}).compile({"type": "text"}) is None


@pytest.mark.parametrize(
    "fmt",
    [
        held_to({"type": "banana"}),
        held_to({"$ref": "#/$defs/none"}),
        held_to({"$ref": "#"}),
        held_to({"type": "string", "pattern": "(["}),
        held_to({"type": "integer", "minimum": 5, "maximum": 3}),
        held_to({"type": "number", "minimum": float("nan")}),
        held_to("x"),
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": []},
        {"type": "json_schema", "json_schema": {"schema": {}, "banana": 1}},
        {"type": "json_object", "banana": 1},
        {"type": "xml"},
        {},
    ],
)
def test_what_cannot_be_compiled_is_a_clear_refusal(fmt):
    with pytest.raises(BadInputError, match="response_format") as caught:
        GrammarCompiler(byte_level().to_str(), {1}).compile(fmt)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_bytes_is_refused_by_the_options_name():
    with pytest.raises(UnsupportedError, match="response_format"):
        GrammarCompiler('{"model": {"type": "banana"}}', {1})
