import json
import math

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quiltwork.core.errors import BadInputError
from quiltwork.serving.options import OPTIONS_SCHEMA, RequestOptions, parse_options

NAMES = sorted(OPTIONS_SCHEMA["properties"])


def parse(**options):
    return parse_options(options, vocab_size=100)


def test_nothing_asked_is_the_default():
    assert parse() == RequestOptions()


def test_null_is_the_default():
    assert parse(**dict.fromkeys(NAMES)) == RequestOptions()


def test_everything_is_read():
    got = parse(
        max_tokens=5, min_tokens=2, temperature=0.5, top_p=0.9, top_k=-1, min_p=0.1, presence_penalty=1,
        frequency_penalty=-1, repetition_penalty=1.1, logit_bias={"7": -100, 8: 1.5}, seed=-3, stop=["a", "b", "a"],
        stop_token_ids=[1, 2], ignore_eos=True, logprobs=4, prompt_logprobs=0, n=3,
        response_format={"type": "json_object"}, adapter_scale=0.5, public_prefix=True,
    )  # fmt: skip
    assert got.max_tokens == 5
    assert got.stop == ("a", "b")
    assert got.stop_token_ids == {1, 2}
    assert got.sampling.logit_bias == {7: -100.0, 8: 1.5}
    assert got.sampling.top_k == 0
    assert (got.n, got.adapter_scale, got.public_prefix, got.ignore_eos) == (3, 0.5, True, True)
    assert (got.sampling.seed, got.sampling.logprobs, got.prompt_logprobs) == (-3, 4, 0)


def test_one_stop_string_is_a_list_of_one():
    assert parse(stop="x").stop == ("x",)


def test_the_models_own_defaults_give_way_to_the_request():
    defaults = {"temperature": 0.2, "top_k": 5}
    got = parse_options({"temperature": 0.9, "top_k": None}, vocab_size=10, defaults=defaults)
    assert (got.sampling.temperature, got.sampling.top_k) == (0.9, 5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", -1), ("max_tokens", 10**30), ("max_tokens", 1.5), ("max_tokens", "5"), ("max_tokens", True),
        ("max_tokens", math.nan), ("max_tokens", 1e308), ("min_tokens", -1), ("temperature", -0.1),
        ("temperature", math.nan), ("temperature", math.inf), ("temperature", "hot"), ("temperature", [1]),
        ("temperature", 10**400), ("top_p", 0), ("top_p", 1.1), ("top_p", math.nan), ("top_k", -2), ("top_k", 0.5),
        ("min_p", -0.1), ("min_p", 2), ("presence_penalty", 3), ("frequency_penalty", -2.5),
        ("repetition_penalty", 0), ("repetition_penalty", -1), ("repetition_penalty", math.inf),
        ("logit_bias", {"100": 1}), ("logit_bias", {"-1": 1}), ("logit_bias", {"a": 1}), ("logit_bias", {"1": 101}),
        ("logit_bias", {"1": math.nan}), ("logit_bias", {"1": "x"}), ("logit_bias", {"²": 1}), ("logit_bias", [1]),
        ("logit_bias", {"9" * 5000: 1}), ("logit_bias", {str(i): 1 for i in range(5000)}),
        ("seed", 2**63), ("seed", "a"), ("seed", 0.5), ("stop", ""), ("stop", [""]), ("stop", [1]), ("stop", 5),
        ("stop", {"a": 1}), ("stop", ["x"] * 10_001), ("stop", ["x" * 2_000_000]), ("stop_token_ids", [100]),
        ("stop_token_ids", [-1]), ("stop_token_ids", [True]), ("stop_token_ids", 3), ("stop_token_ids", ["1"]),
        ("ignore_eos", 1), ("ignore_eos", "yes"), ("logprobs", 21), ("logprobs", -1), ("prompt_logprobs", 21),
        ("n", 0), ("n", 129), ("n", -3), ("response_format", "json"), ("response_format", {}),
        ("response_format", {"type": "xml"}), ("response_format", {"type": ["text"]}),
        ("response_format", {"type": "json_schema", "json_schema": "x" * 300_000}),
        ("adapter_scale", 17), ("adapter_scale", math.nan), ("public_prefix", 0),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_by_the_options_name(name, value):
    with pytest.raises(BadInputError) as caught:
        parse(**{name: value})
    assert caught.value.where is not None
    assert caught.value.where.startswith(name)
    assert len(str(caught.value)) < 300


def test_an_unknown_option_is_refused_by_its_name():
    with pytest.raises(BadInputError, match="best_of"):
        parse(best_of=3)
    with pytest.raises(BadInputError, match="seed"):
        parse_options({"seed": 1}, vocab_size=5, allowed=("n",))


def test_min_tokens_above_max_tokens_is_refused():
    with pytest.raises(BadInputError, match="min_tokens"):
        parse(min_tokens=5, max_tokens=4)


def test_ten_thousand_stop_strings_are_accepted():
    assert len(parse(stop=[f"stop{i}" for i in range(10_000)]).stop) == 10_000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(NAMES), json_values, max_size=4))
def test_nonsense_gives_options_or_a_bad_input_error_and_never_passes_the_schema_wrongly(options):
    try:
        parse_options(options, vocab_size=100)
    except BadInputError as error:
        where = error.where
    else:
        where = "accepted"
        jsonschema.validate(json.loads(json.dumps(options)), OPTIONS_SCHEMA)
    assert where


def test_the_schema_is_a_schema_and_names_what_changes_state():
    jsonschema.Draft202012Validator.check_schema(OPTIONS_SCHEMA)
    assert [n for n in NAMES if OPTIONS_SCHEMA["properties"][n].get("x-changes-state")] == ["adapter_scale", "experts"]
