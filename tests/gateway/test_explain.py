"""``/v1/explain``: how a model is made up, for whom may see it."""

from __future__ import annotations

import json

import pytest
from asking import ask, bearer
from fake_servable import FakeServable

from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Explains, Servable
from quiltwork.gateway import create_app


class Mute:
    """A Servable that does not explain."""

    def __init__(self, servable):
        self._servable = servable

    def __getattr__(self, name):
        if name == "explain":
            raise AttributeError(name)
        return getattr(self._servable, name)


def test_a_model_is_explained(url):
    status, _, told = ask(url, path="/v1/explain/law")
    assert status == 200
    assert told["model"] == "law"
    assert told["segments"][0]["shared_with"] == {"models": ["base", "code", "poems"], "hidden": 0}


def test_a_tenant_learns_how_many_others_share_and_not_who(guarded, keys):
    status, _, told = ask(guarded, path="/v1/explain/mine", **bearer(keys[1]["red"]))
    assert (status, told["model"]) == (200, "red::mine")
    assert told["segments"][0]["shared_with"] == {"models": ["base"], "hidden": 2}
    assert "blue" not in json.dumps(told)


@pytest.mark.parametrize("path", ["blue::own", "own", "nobody", "nobody::x", "..%2Fbase", "base/explain", "%00"])
def test_what_a_tenant_may_not_see_is_not_there(guarded, keys, path):
    status, _, told = ask(guarded, path=f"/v1/explain/{path}", **bearer(keys[1]["red"]))
    assert (status, told["error"]["code"], told["error"]["param"]) == (404, "model_not_found", "model")
    assert ask(guarded, path=f"/v1/explain/{path}")[0] == 401


def test_an_administrator_may_know_all(guarded, keys):
    told = ask(guarded, path="/v1/explain/blue::own", **bearer(keys[1]["chief"]))[2]
    assert told["model"] == "blue::own"
    assert told["segments"][0]["shared_with"] == {"models": ["base", "blue::mine", "red::mine"], "hidden": 0}
    status, _, told = ask(guarded, path="/v1/explain/own", **bearer(keys[1]["chief"]))
    assert status == 404, "a name without its tenant is one of one's own models"


def test_a_kind_of_model_that_explains_nothing_says_so(serving):
    with serving(create_app({"mute": Mute(FakeServable(ModelRef("base")))})) as url:
        status, _, told = ask(url, path="/v1/explain/base")
    assert status == 400
    assert "kind fake" in told["error"]["message"]


def test_the_fake_is_what_the_gateway_takes_it_for(fake):
    assert isinstance(fake, Servable)
    assert isinstance(fake, Explains)
