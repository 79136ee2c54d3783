"""What a caller of the language servable sees, over an engine that says what it is told to."""

import asyncio
import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_engine import ScriptedEngine, Shelf
from tiny_text import byte_level, files

from quiltwork.core.errors import BadInputError, CapacityError, NotFoundError, QuiltworkError
from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Caller, Input, Servable
from quiltwork.serving.servable import LanguageModels
from quiltwork.serving.text import load_codec

TOKENIZER = byte_level()
FILES = files(TOKENIZER, bos_token="<|bos|>", eos_token="<|eos|>")
CODEC = load_codec(FILES.get)
EOS = CODEC.id_of("<|eos|>")
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
TEXT = "the king said hello world to the dog and ran to the big tree"


def ids(text):
    return CODEC.encode(text, add_special_tokens=False)


@pytest.fixture
def host():
    """Makes a servable over a scripted engine; everything is closed at the end."""
    made = []

    def make(script=TEXT, *, eos=True, load=True, engine=None, **options):
        tokens = ids(script) + [EOS] * eos if isinstance(script, str) else script
        engine = engine or ScriptedEngine(script={"v1": tokens})
        shelf = Shelf()
        ref = shelf.put("m", FILES)
        ticks = itertools.count()
        options = {"now": lambda: datetime(2026, 1, 2), "clock": lambda: float(next(ticks)), **options}
        servable = LanguageModels(engine, lambda: shelf, **options)
        servable.engine, servable.shelf = engine, shelf
        if load:
            servable.load(ref)
        made.append(servable)
        return servable

    yield make
    for servable in made:
        servable.engine.gate.set()
        servable.close()


def ask(servable, prompt="the king", model="m", caller=None, task=None, **options):
    task = task or ("chat" if isinstance(prompt, list) and prompt and isinstance(prompt[0], dict) else "completion")
    field = {"chat": "messages", "completion": "prompt", "detokenize": "tokens", "tokenize": "prompt"}[task]
    options = {"temperature": 0, **options} if task in ("chat", "completion") else options
    return servable.submit(ModelRef(model), Input(task, {field: prompt}), options, caller=caller or Caller())


def collect(stream):
    """(text, finish reason, stop reason, token ids) by choice, and the last part."""
    choices, last = {}, None
    for part in stream:
        if part.last:
            last = part.fields
        elif "text" in part.fields:
            choices.setdefault(part.fields["index"], []).append(part.fields)
    joined = {
        index: (
            "".join(p["text"] for p in parts),
            parts[-1]["finish_reason"],
            parts[-1]["stop_reason"],
            [token for p in parts for token in p["token_ids"]],
        )
        for index, parts in choices.items()
    }
    return joined, last


def test_it_is_a_servable_and_its_parts_match_its_schema(host):
    servable = host()
    assert isinstance(servable, Servable)
    schema = servable.tasks()["completion"].output
    for part in ask(servable, logprobs=2, prompt_logprobs=1):
        jsonschema.validate(json.loads(json.dumps(part.fields)), schema)


def test_a_prompt_is_answered_to_the_end_token(host):
    choices, last = collect(ask(host()))
    assert choices[0] == (TEXT, "stop", None, [*ids(TEXT), EOS])
    assert last["usage"] == {
        "prompt_tokens": len(ids("the king")),
        "completion_tokens": len(ids(TEXT)) + 1,
        "cached_tokens": 3,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
        "relaxed_prediction_tokens": 0,
    }
    assert last["served"] == {"model": "m", "version": "v1", "family": "llama", "segments": 1, "substitutions": []}


def test_max_tokens_ends_it_with_length(host):
    choices, _ = collect(ask(host(), max_tokens=3))
    assert choices[0][1:] == ("length", None, ids(TEXT)[:3])


def test_without_max_tokens_it_goes_on_to_the_models_limit(host):
    servable = host(engine=ScriptedEngine(max_len=20))
    choices, _ = collect(ask(servable, [5, 6, 7]))
    assert choices[0][1] == "length"
    assert len(choices[0][3]) == 17


def test_without_max_tokens_it_goes_on_to_what_the_memory_holds(host):
    servable = host(engine=ScriptedEngine(max_len=50, kv_tokens=16))
    choices, _ = collect(ask(servable, [5, 6, 7]))
    assert len(choices[0][3]) == 13


def test_a_patient_reader_gets_the_same_text_in_one_part(host):
    servable = host()
    servable.engine.gate.clear()

    async def read():
        stream = ask(servable)
        reader = asyncio.ensure_future(stream)
        await asyncio.sleep(0)  # to where it waits
        servable.engine.gate.set()
        return await reader

    text, usage = asyncio.run(read())
    assert (text.fields["text"], text.fields["finish_reason"]) == (TEXT, "stop")
    assert text.fields["token_ids"] == [*ids(TEXT), EOS]
    assert usage.fields["usage"]["completion_tokens"] == len(ids(TEXT)) + 1


def test_ignore_eos_goes_on(host):
    choices, _ = collect(ask(host(), ignore_eos=True, max_tokens=30))
    assert choices[0][1] == "length"
    assert len(choices[0][3]) == 30


@pytest.mark.parametrize("stop", ["hello", "lo wor", "o", ["zebra", "to the d", "hello w"]])
def test_a_stop_string_ends_the_text_and_no_token_is_computed_beyond_it(host, stop):
    servable = host()
    choices, last = collect(ask(servable, stop=stop))
    stops = [stop] if isinstance(stop, str) else stop
    at, first = min((TEXT.find(s) + len(s), s) for s in stops if s in TEXT)
    text, reason, stop_reason, tokens = choices[0]
    assert (text, reason, stop_reason) == (TEXT[: at - len(first)], "stop", first)
    assert first not in CODEC.decode(tokens[:-1])
    assert servable.engine.steps == len(tokens) == last["usage"]["completion_tokens"]
    assert servable.engine.cancelled == [servable.engine.added[0].id]


def test_text_held_back_for_a_stop_string_comes_at_the_end(host):
    choices, _ = collect(ask(host(), stop="tree house"))
    assert choices[0][:2] == (TEXT, "stop")


def test_stop_strings_wait_for_min_tokens(host):
    count = len(ids("the king said hello world to "))
    choices, _ = collect(ask(host(), stop="the", min_tokens=count))
    assert choices[0][0].startswith("the king said hello world to")
    assert choices[0][1] == "stop"


def test_a_stop_token_ends_it_and_is_not_shown(host):
    third = ids(TEXT)[2]
    choices, _ = collect(ask(host(), stop_token_ids=[third]))
    assert choices[0] == (CODEC.decode(ids(TEXT)[:2]), "stop", third, ids(TEXT)[:3])


def test_an_end_token_of_generation_config_counts(host):
    servable = host()
    servable.shelf.put(
        "g", {**FILES, "generation_config.json": json.dumps({"eos_token_id": [7, ids(TEXT)[1]]}).encode()}
    )
    servable.load(ModelRef("g"))
    choices, _ = collect(ask(servable, model="g"))
    assert choices[0][1:] == ("stop", None, ids(TEXT)[:2])


def test_generation_config_sets_the_defaults_and_the_request_overrides_them(host):
    servable = host()
    config = {"temperature": 0.0, "top_k": 3, "do_sample": True}
    servable.shelf.put("g", {**FILES, "generation_config.json": json.dumps(config).encode()})
    servable.load(ModelRef("g"))
    fields = Input("completion", {"prompt": "the"})
    list(servable.submit(ModelRef("g"), fields, {"max_tokens": 1}, caller=Caller()))
    list(servable.submit(ModelRef("g"), fields, {"max_tokens": 1, "top_k": 9}, caller=Caller()))
    first, second = (seq.sampler.options for seq in servable.engine.added)
    assert (first.temperature, first.top_k) == (0.0, 3)
    assert (second.temperature, second.top_k) == (0.0, 9)


def test_characters_are_never_cut_and_an_incomplete_one_is_replaced_at_the_end(host):
    smile = ids("a🙂")
    servable = host([*smile, EOS])
    texts = [p.fields["text"] for p in ask(servable) if not p.last]
    assert "".join(texts) == "a🙂"
    assert all("\N{REPLACEMENT CHARACTER}" not in text for text in texts)
    choices, _ = collect(ask(servable, max_tokens=2))
    assert choices[0][0] == "a\N{REPLACEMENT CHARACTER}"


def test_log_probabilities_name_the_tokens(host):
    parts = [p.fields for p in ask(host(), logprobs=2, max_tokens=2) if not p.last]
    for part, token in zip(parts, ids(TEXT), strict=False):
        (entry,) = part["logprobs"]
        assert entry["id"] == token
        assert bytes(entry["bytes"]).decode() == entry["token"] == CODEC.decode([token])
        assert entry["top"][0]["id"] == token
        assert entry["top"][0]["logprob"] == entry["logprob"] <= 0
    assert all(p.fields["logprobs"] is None for p in ask(host(), max_tokens=2) if not p.last)


def test_prompt_log_probabilities_come_first_and_alone_where_no_token_is_wanted(host):
    servable = host()
    prompt = ids("the king")
    first, *rest = [p.fields for p in ask(servable, prompt_logprobs=1, max_tokens=0)]
    assert first["prompt_token_ids"] == prompt
    assert first["prompt_text"] == "the king"
    assert first["prompt_logprobs"][0] is None
    assert [entry["id"] for entry in first["prompt_logprobs"][1:]] == prompt[1:]
    assert [(p["text"], p["token_ids"], p["finish_reason"]) for p in rest[:-1]] == [("", [], "length")]
    assert rest[-1]["usage"]["completion_tokens"] == 0


def test_no_tokens_wanted_is_answered_at_once(host):
    servable = host()
    choices, last = collect(ask(servable, max_tokens=0, n=2))
    assert choices == {0: ("", "length", None, []), 1: ("", "length", None, [])}
    assert last["usage"]["completion_tokens"] == 0
    assert servable.engine.steps == 0


def test_n_choices_are_siblings_and_usage_counts_all(host):
    servable = host()
    choices, last = collect(ask(servable, n=3, temperature=1.0, seed=5, max_tokens=8))
    assert sorted(choices) == [0, 1, 2]
    assert last["usage"]["completion_tokens"] == sum(len(c[3]) for c in choices.values())
    again, _ = collect(ask(servable, n=3, temperature=1.0, seed=5, max_tokens=8))
    assert again == choices
    alone, _ = collect(ask(servable, temperature=1.0, seed=5, max_tokens=8))
    assert alone[0] == choices[0]
    assert len({tuple(c[3]) for c in choices.values()}) > 1


def test_unseeded_requests_differ_and_the_servables_seed_decides(host):
    def run(seed):
        servable = host([], seed=seed)
        return [collect(ask(servable, temperature=1.0, max_tokens=6))[0][0][3] for _ in range(2)]

    first, second = run(1)
    assert first != second
    assert run(1) == [first, second]
    assert run(2) != [first, second]


def test_a_json_schema_holds_the_answer(host):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    fmt = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    choices, _ = collect(ask(host([]), response_format=fmt, max_tokens=60, n=2, temperature=1.0, seed=1))
    for text, reason, _, _ in choices.values():
        assert reason == "stop"
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize(
    "fmt",
    [
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"schema": {"type": "banana"}}},
        {"type": "json_schema", "json_schema": {"schema": {"$ref": "#/nowhere"}}},
        {"type": "json_schema", "json_schema": {"schema": {"type": "string", "pattern": "("}}},
        {"type": "json_schema", "json_schema": {"schema": True}},
        {"type": "json_object", "schema": {}},
    ],
)
def test_a_bad_response_format_is_refused(host, fmt):
    with pytest.raises(BadInputError, match="response_format"):
        ask(host(), response_format=fmt)


# --- chat -----------------------------------------------------------------------------------------------------------


def test_chat_renders_the_models_template_without_a_second_beginning(host):
    servable = host(load=False)
    servable.shelf.put("m", {**FILES, "chat_template.jinja": TEMPLATE.encode()})
    servable.load(ModelRef("m"))
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    list(ask(servable, messages, max_tokens=1))
    assert CODEC.decode(servable.engine.added[0].prompt, skip_special_tokens=False) == (
        "<|bos|>system: be kind\nuser: hi\nassistant:"
    )


def test_a_model_without_a_template_is_refused_by_the_option_that_helps(host):
    with pytest.raises(BadInputError, match="--chat-template"):
        ask(host(), [{"role": "user", "content": "hi"}])


def test_a_template_in_the_settings_serves_every_model(host):
    servable = host(chat_template="{{ messages[0].content }}!")
    list(ask(servable, [{"role": "user", "content": "hi"}], max_tokens=1))
    assert CODEC.decode(servable.engine.added[0].prompt) == "hi!"


# --- tokenize -------------------------------------------------------------------------------------------------------


def test_tokenize_and_detokenize_are_inverse(host):
    servable = host()
    (part,) = ask(servable, "naïve king 🙂", task="tokenize")
    assert part.fields["tokens"] == ids("naïve king 🙂")
    assert part.fields["count"] == len(part.fields["tokens"]) == len(part.fields["token_strs"])
    assert part.fields["max_model_len"] == 64
    (back,) = ask(servable, part.fields["tokens"], task="detokenize")
    assert back.fields == {"prompt": "naïve king 🙂"}
    assert back.last


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "options", "named"),
    [
        ("", {}, "prompt"),
        ([], {}, "prompt"),
        ([5, -1], {}, "prompt"),
        ([5, 10**30], {}, "prompt"),
        ([5, "a"], {}, "prompt"),
        ([[5]], {}, "prompt"),
        (7, {}, "prompt"),
        ({"a": 1}, {}, "prompt"),
        (None, {}, "prompt"),
        ("a\ud800", {}, "prompt"),
        ([5] * 64, {}, "prompt"),
        ("x" * 100_000, {}, "prompt"),
        ([5] * 10, {"max_tokens": 55}, "max_tokens"),
        ([5] * 10, {"max_tokens": 2**31 - 1}, "max_tokens"),
        ([5] * 10, {"min_tokens": 60}, "min_tokens"),
        ("the", {"max_tokens": -1}, "max_tokens"),
        ("the", {"banana": 1}, "banana"),
        ("the", {"logit_bias": {"512": 1}}, "logit_bias"),
    ],
)
def test_bad_input_is_refused_by_name_and_leaves_nothing(host, prompt, options, named):
    servable = host()
    with pytest.raises(BadInputError) as caught:
        ask(servable, prompt, **options)
    assert caught.value.where == named
    assert servable.status()["queue"]["outstanding"] == 0
    assert collect(ask(servable))[0][0][0] == TEXT


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(
    task=st.sampled_from(["completion", "chat", "tokenize", "detokenize", "banana"]),
    fields=st.dictionaries(st.sampled_from(["prompt", "messages", "tokens", "add_special_tokens", "x"]), anything),
    options=st.dictionaries(st.sampled_from(["max_tokens", "n", "stop", "logit_bias", "seed", "top_p", "x"]), anything),
)
def test_nonsense_is_refused_as_bad_input_or_answered(host, task, fields, options):
    servable = getattr(host, "kept", None) or host(chat_template="{{ messages[0].content }}")
    host.kept = servable
    try:
        stream = servable.submit(ModelRef("m"), Input(task, fields), options, caller=Caller())
    except BadInputError as error:
        where = error.where
    else:
        parts = list(stream)
        assert parts[-1].last
        json.dumps([part.fields for part in parts], allow_nan=False)
        return
    assert where


def test_an_over_long_prompt_names_its_length_and_the_limit(host):
    with pytest.raises(BadInputError, match=r"70 tokens.*64"):
        ask(host(), [5] * 70)


@pytest.mark.parametrize(
    ("task", "fields", "named"),
    [
        ("banana", {}, "task"),
        ("completion", {"prompt": "a", "suffix": "b"}, "suffix"),
        ("completion", {}, "prompt"),
        ("chat", {}, "messages"),
        ("tokenize", {}, "prompt"),
        ("tokenize", {"prompt": "a", "messages": []}, "prompt"),
        ("tokenize", {"prompt": 5}, "prompt"),
        ("tokenize", {"prompt": "a", "add_special_tokens": 1}, "add_special_tokens"),
        ("detokenize", {"tokens": "a"}, "tokens"),
        ("detokenize", {"tokens": [600]}, "tokens"),
        ("detokenize", {"tokens": [True]}, "tokens"),
    ],
)
def test_bad_fields_are_refused_by_name(host, task, fields, named):
    with pytest.raises(BadInputError) as caught:
        host().submit(ModelRef("m"), Input(task, fields), {}, caller=Caller())
    assert caught.value.where == named


def test_a_model_without_a_tokenizer_takes_token_ids_only(host):
    servable = host()
    servable.shelf.put("bare")
    servable.load(ModelRef("bare"))
    choices, _ = collect(ask(servable, [5, 6], model="bare", max_tokens=2))
    assert choices[0] == ("", "length", None, ids(TEXT)[:2])
    for bad in (
        {"prompt": "the"},
        {"prompt": [5], "stop": "x"},
        {"prompt": [5], "response_format": {"type": "json_object"}},
    ):
        with pytest.raises(BadInputError, match="no tokenizer"):
            ask(servable, model="bare", **bad)
    with pytest.raises(BadInputError, match="no tokenizer"):
        ask(servable, "a", model="bare", task="tokenize")


def test_a_variant_without_a_tokenizer_takes_its_bases_and_shares_it(host):
    servable = host()
    servable.shelf.put("variant", base=ModelRef("m"))
    servable.load(ModelRef("variant"))
    assert collect(ask(servable, model="variant"))[0][0][0] == TEXT
    info = {h.ref.name: h.info for h in servable.models()}
    assert info["variant"]["tokenizer"] == info["variant"]["parent"] == "m"
    hosts = servable._hosts
    assert hosts[ModelRef("variant")].language.codec is hosts[ModelRef("m")].language.codec


# --- models come and go ---------------------------------------------------------------------------------------------


def test_what_is_not_loaded_or_anothers_is_not_found(host):
    servable = host()
    servable.shelf.put("secret", FILES, tenant="acme")
    servable.load(ModelRef("secret", "acme"))
    with pytest.raises(NotFoundError):
        ask(servable, model="nothing")
    fields = Input("completion", {"prompt": "a"})
    with pytest.raises(NotFoundError):
        servable.submit(ModelRef("secret", "acme"), fields, {}, caller=Caller("other"))
    list(servable.submit(ModelRef("secret", "acme"), fields, {"max_tokens": 1}, caller=Caller("acme")))
    with pytest.raises(NotFoundError):
        servable.load(ModelRef("nothing"))
    assert {h.ref.name: h.state for h in servable.models()} == {"m": "ready", "secret": "ready"}


def test_an_upgrade_serves_the_new_version_while_the_old_one_finishes(host):
    servable = host()
    engine = servable.engine
    engine.script["v2"] = [*ids("goodbye"), EOS]
    engine.gate.clear()
    old = ask(servable)
    servable.shelf.put("m", FILES, version="v2")
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(servable.load, ModelRef("m"))
        engine.gate.set()
        loading.result()
    choices, last = collect(old)
    assert (choices[0][0], last["served"]["version"]) == (TEXT, "v1")
    choices, last = collect(ask(servable))
    assert (choices[0][0], last["served"]["version"]) == ("goodbye", "v2")


def test_loading_the_same_version_again_changes_nothing(host):
    servable = host()
    served = servable.engine.models[ModelRef("m")]
    servable.load(ModelRef("m"))
    assert servable.engine.models[ModelRef("m")] is served


def test_unloading_lets_running_requests_finish_and_takes_no_more(host):
    servable = host()
    engine = servable.engine
    engine.gate.clear()
    running = ask(servable)
    with ThreadPoolExecutor(1) as pool:
        unloading = pool.submit(servable.unload, ModelRef("m"))
        engine.gate.set()
        unloading.result()
    with pytest.raises(NotFoundError):
        ask(servable)
    assert collect(running)[0][0][0] == TEXT
    assert servable.models() == []
    with pytest.raises(NotFoundError):
        servable.unload(ModelRef("m"))


def test_a_model_that_cannot_be_loaded_leaves_nothing(host):
    servable = host()
    servable.shelf.put("broken", {"tokenizer.json": b"{"})
    with pytest.raises(BadInputError, match=r"tokenizer\.json"):
        servable.load(ModelRef("broken"))
    assert [h.ref.name for h in servable.models()] == ["m"]


def test_an_alias_is_served_and_shown(host):
    servable = host(aliases={ModelRef("gpt"): ModelRef("m")})
    assert collect(ask(servable, model="gpt"))[0][0][0] == TEXT
    shown = {h.ref.name: h.info.get("alias_of") for h in servable.models()}
    assert shown == {"m": None, "gpt": "m"}


# --- crowds, cancellation, failure ----------------------------------------------------------------------------------


def test_a_full_queue_refuses_with_a_time_to_come_back_and_frees_with_the_end(host):
    servable = host(max_queue=2)
    servable.engine.gate.clear()
    streams = [ask(servable) for _ in range(6)]
    with pytest.raises(CapacityError) as caught:
        ask(servable)
    assert caught.value.retry_after >= 1
    servable.engine.gate.set()
    for stream in streams:
        list(stream)
    assert collect(ask(servable))[0][0][0] == TEXT


def test_whoever_fills_the_queue_is_refused_and_nobody_else(host):
    servable = host(max_queue=2)
    servable.engine.gate.clear()
    flood, others = Caller("flood"), [Caller("b"), Caller("c")]
    streams = [ask(servable, caller=flood) for _ in range(6)]
    with pytest.raises(CapacityError) as caught:
        ask(servable, caller=flood)
    assert caught.value.retry_after >= 1
    streams += [ask(servable, caller=other) for other in others for _ in range(2)]
    with pytest.raises(CapacityError):
        ask(servable, caller=others[0])  # a third of the room is two places
    refused = {s.labels["tenant"]: s.value for s in servable.samples() if s.name == "quiltwork:tenant_refused_total"}
    assert refused == {"flood": 1, "b": 1}
    servable.engine.gate.set()
    for stream in streams:
        list(stream)
    assert servable._inside == {}
    assert collect(ask(servable, caller=flood))[0][0][0] == TEXT


def test_more_choices_than_the_room_get_in_alone(host):
    choices, _ = collect(ask(host(max_queue=0), n=9, max_tokens=1))
    assert len(choices) == 9


def test_cancelling_frees_the_sequences_and_the_room(host):
    servable = host(engine=ScriptedEngine(max_len=10**8), max_queue=0)
    stream = ask(servable, n=4, ignore_eos=True)
    parts = iter(stream)
    next(parts)
    stream.cancel()
    assert list(parts) == []
    servable._loop.call(lambda: None)  # what was posted before is done
    assert servable.engine.sequences == {}
    assert servable.status()["queue"]["outstanding"] == 0
    finished = {s.labels["finished_reason"]: s.value for s in servable.samples() if "request_success" in s.name}
    assert finished == {"abort": 1}


def test_a_failed_step_is_told_to_those_in_it_and_the_next_request_is_served(host):
    servable = host()
    servable.engine.gate.clear()
    servable.engine.break_step = RuntimeError("a bad kernel")
    streams = [ask(servable), ask(servable)]
    servable.engine.gate.set()
    failures = []
    for stream in streams:
        try:
            list(stream)
        except QuiltworkError as error:
            failures.append(str(error))
    assert failures
    assert all("a bad kernel" in failure for failure in failures)
    assert collect(ask(servable))[0][0][0] == TEXT
    assert servable.status()["queue"]["outstanding"] == 0


def test_an_error_of_one_sequence_is_its_own(host):
    servable = host()
    bias = {str(id): -100 for id in range(512)}
    fmt = {"type": "json_object"}
    stream = ask(servable, response_format=fmt, min_tokens=0, logit_bias=bias, max_tokens=3)
    list(stream)  # biased, but something is still allowed
    assert collect(ask(servable))[0][0][0] == TEXT


def test_close_lets_running_requests_finish_when_given_the_time(host):
    servable = host()
    stream = ask(servable)
    servable.close(drain_seconds=30)
    assert collect(stream)[0][0][0] == TEXT
    with pytest.raises(CapacityError):
        ask(servable)
    assert servable.shelf.closed


def test_close_without_time_ends_what_runs(host):
    servable = host([5] * 60)
    servable.engine.gate.clear()
    stream = ask(servable, ignore_eos=True)
    closer = threading.Thread(target=servable.close)
    closer.start()
    servable.engine.gate.set()
    closer.join()
    with pytest.raises(CapacityError, match="shutting down"):
        list(stream)
    assert servable.engine.sequences == {}


def test_many_threads_at_once_each_get_their_own_answer(host):
    servable = host()

    def one(at):
        prompt = [5 + at, 6]
        choices, last = collect(ask(servable, prompt, max_tokens=1 + at % 7))
        return choices[0][3] == ids(TEXT)[: 1 + at % 7] and last["usage"]["prompt_tokens"] == 2

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(60)))
    assert servable.status()["queue"]["outstanding"] == 0


# --- figures --------------------------------------------------------------------------------------------------------


def test_metrics_count_under_vllms_names(host):
    servable = host()
    list(ask(servable, max_tokens=3))
    list(ask(servable))
    samples = {(s.name, s.labels.get("finished_reason")): s for s in servable.samples()}
    assert samples["vllm:prompt_tokens_total", None].value == 2 * len(ids("the king"))
    assert samples["vllm:generation_tokens_total", None].value == 3 + len(ids(TEXT)) + 1
    assert samples["vllm:request_success_total", "length"].value == 1
    assert samples["vllm:request_success_total", "stop"].value == 1
    assert samples["vllm:kv_cache_usage_perc", None].value == 0.25
    assert samples["quiltwork:weight_bytes", None].value == 7
    first = samples["vllm:time_to_first_token_seconds", None]
    assert first.buckets[-1] == (float("inf"), 2)
    assert [n for _, n in first.buckets] == sorted(n for _, n in first.buckets)
    assert samples["vllm:inter_token_latency_seconds", None].buckets[-1][1] == 3 + len(ids(TEXT)) + 1 - 2
    assert samples["vllm:e2e_request_latency_seconds", None].buckets[-1][1] == 2


def test_the_status_shows_who_shares_which_block(host):
    servable = host()
    servable.shelf.put("other", FILES, version="v9")
    servable.load(ModelRef("other"))
    status = json.loads(json.dumps(servable.status()))
    rows = {row["model"]: [(cell["block"], cell["shared_by"]) for cell in row["cells"]] for row in status["models"]}
    assert rows == {"m": [("embed-1", 2), ("head-v1", 1)], "other": [("embed-1", 2), ("head-v9", 1)]}
    assert status["weights"]["bytes"] == 7
