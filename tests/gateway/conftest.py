"""A real server on loopback with a Servable that has no model behind it."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest
from fake_servable import FakeServable

from quiltwork.core.names import ModelRef
from quiltwork.gateway import Address, create_app, listen, url_of
from quiltwork.gateway.server import _Server, uvicorn
from quiltwork.gateway.tenants import KeyFile


@contextmanager
def running(app):
    """The base URL of ``app``, served in a thread."""
    bound = listen(Address(port=0))
    ready = threading.Event()
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=5)
    server = _Server(config, app, ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        yield url_of(bound)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def fake():
    return FakeServable(*(ModelRef(name) for name in ("base", "law", "poems", "code")))


@pytest.fixture
def app(fake):
    return create_app({"language": fake})


@pytest.fixture
def url(app):
    with running(app) as base:
        yield base


@pytest.fixture
def serving():
    return running


@pytest.fixture
def keys(tmp_path):
    file = KeyFile(tmp_path / "keys.json")
    made = {tenant: file.add(tenant)[1] for tenant in ("red", "blue")}
    made["chief"] = file.add("red", admin=True)[1]
    return file, made


@pytest.fixture
def tenants():
    return FakeServable(ModelRef("base"), ModelRef("mine", "red"), ModelRef("mine", "blue"), ModelRef("own", "blue"))


@pytest.fixture
def guarded(keys, tenants, serving):
    with serving(create_app({"language": tenants}, keys=keys[0])) as url:
        yield url
