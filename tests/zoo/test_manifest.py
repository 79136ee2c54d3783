"""Manifests are read with every field checked: a wrong one is named, whatever it is."""

import copy
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.core.errors import CorruptionError
from quiltwork.zoo import Model, ModelRef, Part, TensorRef
from quiltwork.zoo.manifest import block_json, make_block, model_json, named_blocks, read_model
from quiltwork.zoo.types import Substitution

REF = ModelRef("m")
TENSOR = TensorRef("w", "F32", (2, 3), "a" * 64, "BF16")
INNER = make_block("ffn", {"hidden_size": 3}, [TENSOR])
OUTER = make_block("tensors", {}, [TENSOR], [Part("expert.0", INNER), Part("expert.1", INNER)])
ADAPTER = make_block("lora", {"targets": {"q_proj": {"r": 2}}}, [TENSOR])
MODEL = Model(
    ref=REF,
    version="",
    family="llama",
    parts=(Part("layers.0", OUTER, (ADAPTER,)), Part("layers.1", INNER)),
    config={"rope": {"theta": 1e4}, "ids": [1, 2]},
    files={"tokenizer.json": "b" * 64},
    base=ModelRef("org/base", "acme"),
    unservable=("config.json: odd",),
    lossy={"w": {"code": "int8", "relative_error": 0.001}},
    notes=("a note",),
)
BODIES = {block.id: block_json(block) for block in named_blocks(MODEL.parts)}
MANIFEST = model_json(MODEL, "c" * 64)


def body_of(bodies):
    def body(id):
        if id not in bodies:
            raise CorruptionError("no such block", where=f"block {id}")
        return bodies[id]

    return body


def test_a_model_comes_back_whole():
    model, recipe = read_model(MANIFEST, REF, body_of(BODIES))
    assert recipe == "c" * 64
    assert (model.parts, model.config, model.files, model.base) == (
        MODEL.parts,
        MODEL.config,
        MODEL.files,
        MODEL.base,
    )
    assert (model.unservable, model.lossy, model.notes) == (MODEL.unservable, MODEL.lossy, MODEL.notes)
    assert model_json(model, recipe) == MANIFEST


def test_version_does_not_depend_on_the_name_but_on_all_else():
    named = read_model(MANIFEST, ModelRef("other", "acme"), body_of(BODIES))[0]
    assert named.version == read_model(MANIFEST, REF, body_of(BODIES))[0].version
    other = read_model(model_json(MODEL, "d" * 64), REF, body_of(BODIES))[0]
    assert other.version != named.version


def test_notes_do_not_make_another_version():
    noted = replace(MODEL, notes=("added in a hurry",))
    versions = {read_model(model_json(m, "c" * 64), REF, body_of(BODIES))[0].version for m in (MODEL, noted)}
    assert len(versions) == 1


def test_what_was_measured_of_a_model_made_here_is_kept_and_absent_elsewhere():
    measured = replace(MODEL, measured={"loss": 1.25, "parents": {"a": 1.0, "b": 2.0}})
    manifest = model_json(measured, "c" * 64)
    assert read_model(manifest, REF, body_of(BODIES))[0].measured == measured.measured
    assert b"measured" not in MANIFEST, "models taken in before keep their version"
    assert read_model(MANIFEST, REF, body_of(BODIES))[0].measured == {}
    with pytest.raises(CorruptionError, match="measured"):
        read_model(
            manifest.replace(b'"measured":{', b'"measured":[{').replace(b'"b":2.0}}', b'"b":2.0}}]'),
            REF,
            body_of(BODIES),
        )


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_refused(number):
    with pytest.raises(CorruptionError, match="not JSON"):
        read_model(MANIFEST.replace(b"10000.0", number.encode()), REF, body_of(BODIES))


def test_a_block_id_depends_on_what_it_computes_not_on_order():
    second = TensorRef("b", "F32", (3,), "d" * 64, "F32")
    assert (
        make_block("ffn", {"a": 1, "b": 2}, [TENSOR, second]).id
        == make_block("ffn", {"b": 2, "a": 1}, [second, TENSOR]).id
    )
    assert make_block("ffn", {}, [TENSOR]).id != make_block("attn", {}, [TENSOR]).id
    assert make_block("ffn", {}, [TENSOR]).id != make_block("ffn", {"a": 1}, [TENSOR]).id
    reshaped = TensorRef("w", "F32", (3, 2), "a" * 64, "BF16")
    assert make_block("ffn", {}, [TENSOR]).id != make_block("ffn", {}, [reshaped]).id


def test_a_block_with_another_block_s_content_is_refused():
    swapped = dict(BODIES)
    swapped[INNER.id] = BODIES[ADAPTER.id]
    with pytest.raises(CorruptionError, match="its content does not have its id"):
        read_model(MANIFEST, REF, body_of(swapped))


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("format", 2, "format: must be 1"),
        ("family", 3, "family: must be a string"),
        ("parts", {}, "parts: must be a list"),
        ("parts", [["a", "b" * 64]], r"parts\[0\]: must be a list of 3"),
        ("parts", [["a", "B" * 64, []]], r"parts\[0\].block: must be 64 hexadecimal digits"),
        ("parts", [["a", "b" * 64, []]], "no such block"),
        ("config", None, "config: must be an object"),
        ("files", {"x": "../../etc/passwd"}, "files.x: must be 64"),
        ("recipe", "", "recipe: must be 64"),
        ("base", {"name": "../up", "tenant": "public"}, "base: .*is not a name"),
        ("base", {"name": "m"}, "base.tenant: is missing"),
        ("unservable", "no", "unservable: must be a list"),
        ("notes", [1], r"notes\[0\]: must be a string"),
    ],
)
def test_the_field_that_is_wrong_is_named(field, value, match):
    fields = json.loads(MANIFEST) | {field: value}
    with pytest.raises(CorruptionError, match=match):
        read_model(json.dumps(fields).encode(), REF, body_of(BODIES))


@pytest.mark.parametrize(
    ("tensor", "match"),
    [
        (["w", "Q4", [1], "a" * 64, "F32"], "dtype: is not a dtype"),
        (["w", ["F32"], [1], "a" * 64, "F32"], "dtype: is not a dtype"),
        (["w", "F32", [1], "a" * 64, "F64"], "stored_dtype: is not a form of F32"),
        (["w", "F32", [1], "a" * 64, ["F32"]], "stored_dtype: is not a form of F32"),
        (["w", "F32", [-1], "a" * 64, "F32"], "shape: must be a list of sizes"),
        (["w", "F32", [1.5], "a" * 64, "F32"], "shape: must be a list of sizes"),
        (["w", "F32", [2**60], "a" * 64, "F32"], "shape: must be a list of sizes"),
        ([7, "F32", [1], "a" * 64, "F32"], "name: must be a string"),
        (["w", "F32", [1]], "must be a list of 5"),
    ],
)
def test_the_tensor_field_that_is_wrong_is_named(tensor, match):
    from quiltwork.zoo.objects import content_id

    body = json.dumps({"kind": "ffn", "arch": {}, "tensors": [tensor], "children": []}).encode()
    fields = json.loads(MANIFEST) | {"parts": [["p", content_id(body), []]]}
    with pytest.raises(CorruptionError, match=match):
        read_model(json.dumps(fields).encode(), REF, body_of({content_id(body): body}))


def test_children_nested_beyond_reason_are_refused():
    block = INNER
    for _ in range(60):
        block = make_block("tensors", {}, [], [Part("inner", block)])
    bodies = {b.id: block_json(b) for b in named_blocks([Part("p", block)])}
    fields = json.loads(MANIFEST) | {"parts": [["p", block.id, []]]}
    with pytest.raises(CorruptionError, match="nested too deeply"):
        read_model(json.dumps(fields).encode(), REF, body_of(bodies))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def spots(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from spots(inner, (*path, key))


@settings(max_examples=300)
@given(st.data())
def test_any_change_is_read_or_refused_never_a_crash(data):
    fields = copy.deepcopy(json.loads(MANIFEST))
    path = data.draw(st.sampled_from([spot for spot in spots(fields) if spot]))
    holder = fields
    for key in path[:-1]:
        holder = holder[key]
    if data.draw(st.booleans()):
        holder[path[-1]] = data.draw(JSON)
    else:
        del holder[path[-1]]
    try:
        model, recipe = read_model(json.dumps(fields).encode(), REF, body_of(BODIES))
    except CorruptionError:
        return
    assert isinstance(model, Model)
    assert len(recipe) == 64


@settings(max_examples=200)
@given(st.binary(max_size=200) | st.integers(0, len(MANIFEST)).map(lambda n: MANIFEST[:n]))
def test_bytes_that_are_no_manifest_are_refused(data):
    if data != MANIFEST:
        with pytest.raises(CorruptionError):
            read_model(data, REF, body_of(BODIES))


def test_absurdly_nested_json_is_refused():
    with pytest.raises(CorruptionError, match="not JSON"):
        read_model(b"[" * 200_000, REF, body_of(BODIES))


SUBSTITUTION = Substitution(
    part="layers.1",
    original=("d" * 64,),
    serving=("e" * 64, "f" * 64),
    source=ModelRef("base", "acme"),
    delta_loss=0.001,
    kl=0.01,
    agreement=0.98,
    total_delta_loss=0.002,
    total_agreement=0.97,
    budget=0.01,
    text="a" * 64,
)


def test_substitutions_come_back_and_models_without_them_keep_their_manifest():
    assert b"substitutions" not in MANIFEST
    manifest = model_json(replace(MODEL, substitutions=(SUBSTITUTION,)), "c" * 64)
    model, _ = read_model(manifest, REF, body_of(BODIES))
    assert model.substitutions == (SUBSTITUTION,)
    assert model.version != read_model(MANIFEST, REF, body_of(BODIES))[0].version


@pytest.mark.parametrize(
    ("field", "value"),
    [("kl", "low"), ("kl", True), ("source", {"name": "x"}), ("serving", ["short"]), ("part", 1), ("more", 1)],
)
def test_a_wrong_substitution_is_named(field, value):
    document = json.loads(model_json(replace(MODEL, substitutions=(SUBSTITUTION,)), "c" * 64))
    document["substitutions"][0][field] = value
    with pytest.raises(CorruptionError, match=rf"substitutions\[0\]\.{field}"):
        read_model(json.dumps(document).encode(), REF, body_of(BODIES))
