"""Loading and unloading while the server runs."""

from __future__ import annotations

import shutil

import pytest
from asking import ask, complete
from fake_servable import FakeServable
from tiny_checkpoints import adapted, build

from quiltwork.core.errors import UnsupportedError
from quiltwork.core.names import ModelRef
from quiltwork.gateway import create_app
from quiltwork.zoo import Zoo


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A folder with a base model and an adapter on it."""
    from peft import LoraConfig

    folder = tmp_path_factory.mktemp("checkpoints")
    base = build("llama")
    base.save_pretrained(folder / "base")
    config = LoraConfig(r=4, target_modules=["q_proj"], base_model_name_or_path=str(folder / "base"))
    adapted(base, config, folder / "adapter")
    return folder


@pytest.fixture
def zoo(tmp_path, checkpoints):
    with Zoo(tmp_path / "zoo") as opened:
        opened.add(checkpoints / "base", name="base")
        yield opened


@pytest.fixture
def servable():
    return FakeServable(ModelRef("base"))


@pytest.fixture
def house(servable, zoo, serving):
    with serving(create_app({"language": servable}, zoo=zoo)) as url:
        yield url


def load(url, **fields):
    return ask(url, "POST", "/v1/load_lora_adapter", fields)


def unload(url, **fields):
    return ask(url, "POST", "/v1/unload_lora_adapter", fields)


def listed(url):
    return [model["id"] for model in ask(url)[2]["data"]]


def test_an_adapter_is_added_served_and_taken_away(house, zoo, checkpoints):
    status, _, text = load(house, lora_name="law", lora_path=str(checkpoints / "adapter"), base_model_name="base")
    assert (status, text) == (200, "Success: LoRA adapter 'law' added successfully.")
    assert listed(house) == ["base", "law"]
    assert complete(house, "law")[0] == 200
    status, _, text = unload(house, lora_name="law")
    assert (status, text) == (200, "Success: LoRA adapter 'law' removed successfully.")
    assert listed(house) == ["base"]
    assert complete(house, "law")[0] == 404
    assert ModelRef("law") in zoo.models()


def test_what_the_zoo_has_is_loaded_by_its_name_alone(house, zoo, checkpoints):
    zoo.add(checkpoints / "adapter", name="law", base="base")
    assert load(house, lora_name="law")[0] == 200
    assert listed(house) == ["base", "law"]
    # Once more changes nothing.
    assert load(house, lora_name="law", lora_path=str(checkpoints / "adapter"), base_model_name="base")[0] == 200
    assert listed(house) == ["base", "law"]


def test_a_name_that_is_taken_is_given_up_only_where_that_was_asked_for(house, zoo, checkpoints):
    path = str(checkpoints / "adapter")
    status, _, body = load(house, lora_name="base", lora_path=path, base_model_name="base")
    assert (status, body["error"]["type"]) == (409, "conflict_error")
    assert len(zoo.models()) == 1
    zoo.add(checkpoints / "base", name="law")
    assert load(house, lora_name="law", lora_path=path, base_model_name="base")[0] == 409
    assert load(house, lora_name="law", lora_path=path, base_model_name="base", load_inplace=True)[0] == 200


@pytest.mark.parametrize(
    "name",
    ["../law", "/etc/passwd", "law/../../base", "a\\..\\b", "", ".hidden", "a" * 250, "x\0y", "::", "a::", "../x::law"],
)
@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/models/load", "/models/unload"])
def test_a_name_that_is_no_name_is_refused_by_field(house, zoo, servable, checkpoints, path, name):
    field = "lora_name" if "lora" in path else "model"
    body = {field: name} | (
        {"lora_path": str(checkpoints / "adapter")}
        if path.endswith("load_lora_adapter") and "unload" not in path
        else {}
    )
    status, _, reply = ask(house, "POST", path, body)
    assert (status, reply["error"]["param"]) == (400, field)
    assert servable.refs == [ModelRef("base")]
    assert zoo.models() == [ModelRef("base")]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/no/such/folder", 404),
        ("/etc/passwd", 400),
        ("../..", 400),
        ("x\0y", 400),
        ("", 400),
        (5, 400),
        ("a" * 5000, 400),
    ],
)
def test_a_path_where_no_adapter_is(house, zoo, servable, path, status):
    got, _, reply = load(house, lora_name="law", lora_path=path)
    assert (got, set(reply["error"])) == (status, {"message", "type", "param", "code"})
    assert "Traceback" not in reply["error"]["message"]
    assert servable.refs == zoo.models() == [ModelRef("base")]


@pytest.mark.parametrize("harm", ["truncated", "no weights", "a pickle", "no configuration"])
def test_an_adapter_that_is_damaged(house, zoo, servable, checkpoints, tmp_path, harm):
    folder = shutil.copytree(checkpoints / "adapter", tmp_path / "damaged")
    weights = folder / "adapter_model.safetensors"
    if harm == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif harm == "no configuration":
        (folder / "adapter_config.json").write_text("{")
    else:
        weights.unlink()
        if harm == "a pickle":
            (folder / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    status, _, reply = load(house, lora_name="law", lora_path=str(folder), base_model_name="base")
    assert status == (404 if harm == "no weights" else 400)
    assert str(folder) in reply["error"]["message"] or "adapter" in reply["error"]["message"]
    assert servable.refs == zoo.models() == [ModelRef("base")]
    assert zoo.fsck() == []
    assert complete(house, "base")[0] == 200


def test_what_cannot_be_served_does_not_stay_in_the_zoo(house, zoo, servable, checkpoints, monkeypatch):
    def refuse(ref):
        raise UnsupportedError("no such thing is served", where=str(ref))

    monkeypatch.setattr(servable, "load", refuse)
    status, _, reply = load(house, lora_name="law", lora_path=str(checkpoints / "adapter"), base_model_name="base")
    assert (status, reply["error"]["code"]) == (400, "unsupported")
    assert zoo.models() == [ModelRef("base")]
    # What was there before stays.
    zoo.add(checkpoints / "adapter", name="kept", base="base")
    assert load(house, lora_name="kept", lora_path=str(checkpoints / "adapter"), base_model_name="base")[0] == 400
    assert ModelRef("kept") in zoo.models()


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/models/load", "/models/unload"])
def test_a_model_that_is_not_there(house, path):
    field = "lora_name" if "lora" in path else "model"
    status, _, reply = ask(house, "POST", path, {field: "absent"})
    assert (status, reply["error"]["type"]) == (404, "not_found_error")


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/models/load", "/models/unload"])
def test_fields_that_are_missing_unknown_or_of_another_type(house, path):
    field = "lora_name" if "lora" in path else "model"
    for body, param in [
        ({}, field),
        ({field: None}, field),
        ({field: ["a"]}, field),
        ({field: "a", "lora_int_id": 1}, "lora_int_id"),
    ]:
        status, _, reply = ask(house, "POST", path, body)
        assert (status, reply["error"]["param"]) == (400, param)


def test_a_server_without_a_zoo_adds_nothing(url, checkpoints):
    status, _, reply = load(url, lora_name="law2", lora_path=str(checkpoints / "adapter"))
    assert (status, reply["error"]["param"]) == (400, "lora_path")


def test_requests_that_run_finish_when_their_model_is_unloaded(house, servable):
    import http.client
    import json
    from urllib.parse import urlsplit

    place = urlsplit(house)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=20)
    body = json.dumps({"model": "base", "prompt": "slow b", "stream": True, "max_tokens": 20})
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    assert ask(house, "POST", "/models/unload", {"model": "base"})[0] == 200
    assert reply.read().endswith(b"data: [DONE]\n\n")
    assert not servable.cancelled.is_set()
    connection.close()


def test_a_kind_that_has_nothing_to_evict_cannot_be_pinned(house):
    status, _, error = ask(house, "POST", "/models/load", {"model": "base", "pin": True})
    assert (status, error["error"]["param"]) == (400, "pin")
    assert ask(house, "POST", "/models/load", {"model": "base", "pin": None})[0] == 200
