"""A zoo model goes to the Servable that takes it."""

from __future__ import annotations

import pytest
from fake_servable import FakeServable

from quiltwork.core.errors import NotFoundError, UnsupportedError
from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Servable, taker


class Choosy(FakeServable):
    """Takes models whose names begin with its kind."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def takes(self, ref):
        if ref.name == "absent":
            raise NotFoundError("no such model", where="absent")
        return ref.name.startswith(self.kind)


HOSTS = {"x": Choosy("pose"), "y": Choosy("text")}


def test_each_model_has_one_host():
    assert isinstance(HOSTS["x"], Servable)
    assert taker(HOSTS, ModelRef("text-a")) is HOSTS["y"]
    assert taker(HOSTS, ModelRef("pose-a")) is HOSTS["x"]


def test_a_model_that_nobody_takes_is_said_with_what_is_served():
    with pytest.raises(UnsupportedError, match="shape-a is of no kind that is served here") as caught:
        taker(HOSTS, ModelRef("shape-a"))
    assert "pose, text" in str(caught.value)
    with pytest.raises(UnsupportedError, match="none"):
        taker({}, ModelRef("a"))
    with pytest.raises(NotFoundError):
        taker(HOSTS, ModelRef("absent"))
