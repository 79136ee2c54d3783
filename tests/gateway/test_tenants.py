"""Who may come in, and what of the house a tenant sees."""

from __future__ import annotations

import json
import stat

import pytest
from asking import ask, bearer, complete

from quiltwork.core.errors import BadInputError
from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Latitude
from quiltwork.gateway.app import create_app
from quiltwork.gateway.tenants import KeyFile


def test_a_tenant_sees_its_own_models_and_public_ones(guarded, keys):
    _, _, listed = ask(guarded, **bearer(keys[1]["red"]))
    assert sorted((m["id"], m["owned_by"]) for m in listed["data"]) == [("base", "public"), ("mine", "red")]
    _, _, listed = ask(guarded, **bearer(keys[1]["blue"]))
    assert sorted(m["id"] for m in listed["data"]) == ["base", "mine", "own"]


@pytest.mark.parametrize("name", ["own", "blue::own", "blue::mine", "../mine", "red::own"])
def test_anothers_model_is_as_if_there_were_none(guarded, keys, tenants, name):
    status, _, body = complete(guarded, name, headers=bearer(keys[1]["red"]))
    assert (status, body["error"]["code"], body["error"]["param"]) == (404, "model_not_found", "model")
    assert ask(guarded, path=f"/v1/models/{name}", **bearer(keys[1]["red"]))[0] == 404
    assert tenants.asked == []


def test_a_name_two_tenants_have_means_ones_own(guarded, keys, tenants):
    for tenant in ("red", "blue"):
        assert complete(guarded, "mine", headers=bearer(keys[1][tenant]))[0] == 200
        ref, _, _, caller = tenants.asked[-1]
        assert (ref.tenant, caller.tenant) == (tenant, tenant)


def test_anothers_model_is_answered_as_one_that_never_was(guarded, keys):
    replies = [complete(guarded, name, headers=bearer(keys[1]["red"])) for name in ("own", "nix")]
    texts = [json.dumps(body).replace(name, "NAME") for (_, _, body), name in zip(replies, ("own", "nix"), strict=True)]
    assert texts[0] == texts[1]


def test_the_status_shows_a_tenant_nothing_of_others(guarded, keys):
    _, _, seen = ask(guarded, path="/v1/status", **bearer(keys[1]["red"]))
    shown = seen["servables"]["language"]
    assert sorted(row["model"] for row in shown["models"]) == ["base", "red::mine"]
    assert max(cell["shared_by"] for row in shown["models"] for cell in row["cells"]) == 2
    assert [segment["models"] for segment in shown["segments"]] == [["base", "red::mine"]]
    assert [row["tenant"] for row in shown["tenants"]] == ["red"]
    assert "blue" not in json.dumps(seen)
    _, _, all_of_it = ask(guarded, path="/v1/status", **bearer(keys[1]["chief"]))
    assert [row["tenant"] for row in all_of_it["servables"]["language"]["tenants"]] == ["blue", "public", "red"]


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer qw-no"}, {"Authorization": "Basic abc"}])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/base"])
def test_without_a_known_key_nobody_learns_anything(guarded, header, path):
    status, headers, body = ask(guarded, path=path, **header)
    assert (status, headers["WWW-Authenticate"], body["error"]["code"]) == (401, "Bearer", "invalid_api_key")
    assert "base" not in json.dumps(body)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/models/load", {"model": "base"}),
        ("POST", "/models/unload", {"model": "base"}),
        ("POST", "/v1/load_lora_adapter", {"lora_name": "base"}),
        ("POST", "/v1/unload_lora_adapter", {"lora_name": "base"}),
        ("GET", "/metrics", None),
    ],
)
def test_administration_needs_an_administrators_key(guarded, keys, tenants, method, path, body):
    before = list(tenants.refs)
    assert ask(guarded, method, path, body, **bearer(keys[1]["red"]))[0] == 403
    assert ask(guarded, method, path, body)[0] == 401
    assert tenants.refs == before


def test_an_administrator_is_one_of_its_own_tenant_and_of_what_is_public(guarded, keys, tenants):
    chief = bearer(keys[1]["chief"])
    assert ask(guarded, "POST", "/models/unload", {"model": "blue::own"}, **chief)[0] == 403
    assert ask(guarded, "POST", "/models/load", {"model": "new"}, **chief)[0] == 200
    assert ModelRef("new", "red") in tenants.refs
    assert ask(guarded, "POST", "/models/unload", {"model": "public::base"}, **chief)[0] == 200
    assert ModelRef("base") not in tenants.refs


def test_a_withdrawn_key_is_unknown_from_the_next_request_on(guarded, keys):
    file, made = keys
    assert ask(guarded, **bearer(made["blue"]))[0] == 200
    kept = file.keys()
    file.remove(next(key.id for key in kept if key.tenant == "blue"))
    assert ask(guarded, **bearer(made["blue"]))[0] == 401
    assert ask(guarded, **bearer(made["red"]))[0] == 200


def test_keys_are_kept_as_hashes_in_a_file_of_ones_own(keys, tmp_path):
    text = (tmp_path / "keys.json").read_text()
    assert not [key for key in keys[1].values() if key in text or key.split("-", 2)[2] in text]
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"keys": [{"id": 1}]}', b"\xff"])
def test_a_file_of_keys_that_is_none_is_named(tmp_path, content):
    path = tmp_path / "keys.json"
    if content is None:
        path.mkdir(mode=0o700)
    else:
        path.touch(mode=0o600)
        path.write_bytes(content)
    with pytest.raises(BadInputError, match=r"keys\.json: is not a file"):
        KeyFile(path).keys()


def test_only_a_key_that_says_so_may_have_answers_changed_by_a_draft(keys, tenants, serving):
    file, made = keys
    opted = file.add("blue", latitude=Latitude(relaxed_speculation=True))[1]
    with serving(create_app({"language": tenants}, keys=file, latitude=Latitude(relaxed_speculation=True))) as url:
        may = {}
        for name, key in (*made.items(), ("opted", opted)):
            assert complete(url, "base", headers=bearer(key))[0] == 200
            may[name] = tenants.asked[-1][3].relaxed_speculation
    assert may == {"red": False, "blue": False, "chief": False, "opted": True}


@pytest.mark.parametrize("allowed", [False, True])
def test_without_keys_it_is_the_servers_setting(tenants, serving, allowed):
    with serving(create_app({"language": tenants}, latitude=Latitude(relaxed_speculation=allowed))) as url:
        assert complete(url, "base")[0] == 200
    assert tenants.asked[-1][3].relaxed_speculation is allowed


def test_a_key_made_before_there_was_such_a_thing_may_not(keys):
    file, made = keys
    rows = json.loads(file.path.read_text())["keys"]
    for row in rows:
        del row["relaxed_speculation"]
    file.path.write_text(json.dumps({"keys": rows}))
    assert not KeyFile(file.path).visitor(f"Bearer {made['red']}").relaxed_speculation
    rows[0]["relaxed_speculation"] = "yes"
    file.path.write_text(json.dumps({"keys": rows}))
    with pytest.raises(BadInputError, match="relaxed_speculation"):
        KeyFile(file.path).keys()
